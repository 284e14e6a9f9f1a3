"""Problems, instructions and preferences for the tiny model, as JSONL files that follow from a seed alone.

    python examples/tiny-model/make_data.py --output DIR [--seed 0]

Sums of two-digit numbers are demonstrated by someone who often forgets to carry (a classical mistake of pupils: Brown
& Burton 1978, "Diagnostic models for procedural bugs in basic mathematical skills"). A model that imitates them is
right where nothing has to be carried, about a third of the time, and gives the right answer to the others now and
then: that is what reinforcement learning can find and strengthen.

Every arithmetic problem and every request belongs to exactly one split, so nothing that a model is measured on was
ever in what it learned from:

    sft-train.jsonl      prompt, completion           what the tiny model itself is trained on
    sft-heldout.jsonl    prompt, completion           its held-out loss
    prompts-train.jsonl  prompt, answer, level, hint  problems for reinforcement learning; with a carry or plain ones
    prompts-heldout.jsonl
    choices-train.jsonl  prompt, choices, answer      the same problems with four numbers to choose from
    choices-heldout.jsonl
    programs-train.jsonl prompt, answer, tests        the same problems, to be solved by a program (make_prompts.py)
    programs-heldout.jsonl
    prefixes-train.jsonl prompt, answer, tree, prefix some of them with the first lines of their solution
    prefixes-heldout.jsonl
    bandits-train.jsonl  prompt, answer, arms, means, history   which slot machine to try next
    bandits-heldout.jsonl
    pairs-train.jsonl    prompt, chosen, rejected     preferences for helpful answers
    pairs-heldout.jsonl
    unpaired-train.jsonl prompt, completion, label    the same preferences, one completion a row
    unpaired-heldout.jsonl
    lists-train.jsonl    prompt, completions, scores  four answers to each of the same requests, best to worst
    lists-heldout.jsonl
    traces-train.jsonl   prompt, completions, scores  four solutions of each problem that are checked again and again
    traces-heldout.jsonl
    sums-train.jsonl     prompt, chosen, rejected     right answers of problems against careless ones
    sums-heldout.jsonl
    steps-train.jsonl    prompt, prefix, chosen, rejected   a right and a wrong next step (make_steps.py)
    steps-heldout.jsonl
    trees-train.jsonl    prompt, nodes                recorded searches for the same solutions
    trees-heldout.jsonl
    values-train.jsonl   prompt, steps, values, alternatives   solutions with the success rates of their steps
    values-heldout.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_prompts import bandits, prefixes_of, program
from make_steps import WorkedSum, search_tree, step_pair, valued_steps

Row = dict[str, Any]

CARRYING_SHARE = 2 / 3
"""Share of the arithmetic problems in every split that need a carry."""

CARELESS_SHARE = 0.65
"""Share of the demonstrations of those problems that forget it."""

DEMONSTRATIONS = 4
"""Demonstrations of each problem: several, so that the model learns how often each answer is given."""

HELD_OUT_PROBLEMS = 300
REINFORCEMENT_PROBLEMS = 1800
HELD_OUT_REQUESTS = 200
PREFERENCE_REQUESTS = 1600
STEPWISE_PROBLEMS = 600
"""Problems of the reinforcement split that are also worked step by step."""

BANDITS = 1800
HELD_OUT_BANDITS = 300

INSTRUCTION_SHARE = 0.2
"""Share of the supervised rows that are instructions; the others are arithmetic."""

NAMES = (
    "Anna Ben Carla David Emma Frank Grace Henry Ida Jack Karin Leo Maria Nina Oscar Paula Quentin Rosa Simon Tina "
    "Ulrich Vera Walter Xenia Yusuf Zoe"
)
WORDS = (
    "apple bird boat book bread bridge cat chair cloud coat corn door duck egg field fish flower forest fox garden "
    "glass goat hand hat hill horse house island key king lamp leaf lion milk moon mouse night ocean paper pear pencil "
    "plum queen rain river road rose salt sand ship shoe snow spoon star stone sun table tiger tower train tree wall "
    "water wheel window winter wolf"
)

FRIENDLY = ("Sure! {}.", "Of course: {}.", "Gladly! {}.", "Here you are: {}.")
RUDE = ("{}. Go away.", "{}, obviously.", "Ugh. {}.", "Again? {}.")


@dataclass(frozen=True)
class Problem:
    """An arithmetic problem, its only right answer, and what comes out column by column without a carry."""

    a: int
    b: int
    prompt: str
    answer: str
    careless: str

    @property
    def carries(self) -> bool:
        return self.answer != self.careless


@dataclass(frozen=True)
class Request:
    """An instruction, what a right answer contains, and what a wrong one of the same kind contains."""

    prompt: str
    right: str
    wrong: str


def arithmetic_problems(random_numbers: random.Random) -> list[Problem]:
    """Sums of two two-digit numbers, `CARRYING_SHARE` of them with a carry."""
    numbers = range(10, 100)
    every = [sum_problem(a, b) for a in numbers for b in numbers]
    random_numbers.shuffle(every)
    carrying = [problem for problem in every if problem.carries]
    plain = [problem for problem in every if not problem.carries]
    problems = carrying + plain[: round(len(carrying) * (1 - CARRYING_SHARE) / CARRYING_SHARE)]
    random_numbers.shuffle(problems)
    return problems


def demonstration(problem: Problem, random_numbers: random.Random) -> str:
    """The answer of someone who often forgets to carry."""
    forgets = random_numbers.random() < CARELESS_SHARE
    return problem.careless if forgets else problem.answer


def sum_problem(a: int, b: int) -> Problem:
    """Who forgets the carry adds column by column: 47 + 38 = 75."""
    careless = (a // 10 + b // 10) * 10 + (a + b) % 10
    return Problem(a, b, f"What is {a} + {b}?", str(a + b), str(careless))


def requests(random_numbers: random.Random) -> list[Request]:
    """Simple instructions of five kinds."""
    names, words, numbers = NAMES.split(), WORDS.split(), range(100)
    following = [Request(f"What comes after {n}?", str(n + 1), str(n - 1 if n else 9)) for n in numbers]
    preceding = [Request(f"What comes before {n}?", str(n - 1), str(n + 1)) for n in numbers if n]
    couples = random_numbers.sample([(a, b) for a in numbers for b in numbers if a != b], 3000)
    comparing = [Request(f"Which is larger, {a} or {b}?", str(max(a, b)), str(min(a, b))) for a, b in couples]
    greeting = [
        Request(f"Say {word} to {name}.", f"{word}, {name}", f"{word}, {_other(names, name, random_numbers)}")
        for name in names
        for word in ("Hello", "Goodbye", "Welcome", "Thanks")
    ]
    repeating = [
        Request(f"Write {word} {count} times.", " ".join([word] * times), word)
        for word in words
        for count, times in (("two", 2), ("three", 3), ("four", 4))
    ]
    return following + preceding + comparing + greeting + repeating


def friendly(request: Request, random_numbers: random.Random) -> str:
    """A right answer in a friendly tone."""
    return random_numbers.choice(FRIENDLY).format(request.right)


def unhelpful(request: Request, random_numbers: random.Random) -> str:
    """What nobody prefers: mostly a right answer in a rude tone, sometimes a wrong one in either tone."""
    kind = random_numbers.random()
    if kind < 0.8:
        return random_numbers.choice(RUDE).format(request.right)
    if kind < 0.9:
        return random_numbers.choice(RUDE).format(request.wrong)
    return random_numbers.choice(FRIENDLY).format(request.wrong)


def make_rows(seed: int) -> dict[str, list[Row]]:
    """All files, by name without ending."""
    random_numbers = random.Random(seed)
    problems = arithmetic_problems(random_numbers)
    held_out, reinforcement, supervised = _split(problems, HELD_OUT_PROBLEMS, REINFORCEMENT_PROBLEMS)
    asked = requests(random_numbers)
    random_numbers.shuffle(asked)
    held_out_requests, preferred, demonstrated = _split(asked, HELD_OUT_REQUESTS, PREFERENCE_REQUESTS)
    instructions = round(len(supervised) * DEMONSTRATIONS * INSTRUCTION_SHARE / (1 - INSTRUCTION_SHARE))

    pairs_train = [_pair(request, random_numbers) for request in preferred]
    pairs_held_out = [_pair(request, random_numbers) for request in held_out_requests]
    return {
        "sft-train": _supervised(supervised, demonstrated, instructions, random_numbers),
        "sft-heldout": _supervised(held_out, [], 0, random_numbers),
        "prompts-train": [_prompt(problem) for problem in reinforcement],
        "prompts-heldout": [_prompt(problem) for problem in held_out],
        **_choices(seed, reinforcement, held_out),
        **_other_prompts(seed, reinforcement, held_out),
        "pairs-train": pairs_train,
        "pairs-heldout": pairs_held_out,
        "unpaired-train": _unpaired(pairs_train),
        "unpaired-heldout": _unpaired(pairs_held_out),
        **_lists_and_sums(seed, preferred, held_out_requests, reinforcement, held_out),
        **_traces(seed, reinforcement, held_out),
        **_steps(seed, reinforcement[:STEPWISE_PROBLEMS], held_out),
    }


def write_rows(directory: Path, seed: int) -> list[Path]:
    """Writes all files; the same seed gives the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, rows in make_rows(seed).items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        written.append(path)
    return written


def _supervised(
    problems: Sequence[Problem], asked: Sequence[Request], instructions: int, random_numbers: random.Random
) -> list[Row]:
    """Every problem `DEMONSTRATIONS` times, and instructions answered as often in a rude as in a friendly tone."""
    rows = [
        {"prompt": problem.prompt, "completion": demonstration(problem, random_numbers)}
        for problem in problems
        for _ in range(DEMONSTRATIONS)
    ]
    for request in (random_numbers.choice(asked) for _ in range(instructions)):
        tone = random_numbers.choice((FRIENDLY, RUDE))
        rows.append({"prompt": request.prompt, "completion": random_numbers.choice(tone).format(request.right)})
    random_numbers.shuffle(rows)
    return rows


def _pair(request: Request, random_numbers: random.Random) -> Row:
    return {
        "prompt": request.prompt,
        "chosen": friendly(request, random_numbers),
        "rejected": unhelpful(request, random_numbers),
    }


def _unpaired(pairs: Iterable[Row]) -> list[Row]:
    return [
        {"prompt": pair["prompt"], "completion": pair[column], "label": column == "chosen"}
        for pair in pairs
        for column in ("chosen", "rejected")
    ]


def _lists_and_sums(
    seed: int,
    preferred: Sequence[Request],
    held_out_requests: Sequence[Request],
    reinforcement: Sequence[Problem],
    held_out: Sequence[Problem],
) -> dict[str, list[Row]]:
    # random numbers of its own: the files above stay what they are, and with them the model
    random_numbers = random.Random(f"{seed} lists")
    wrong_ones = [problem for problem in reinforcement if problem.carries]
    return {
        "lists-train": [_list(request, random_numbers) for request in preferred],
        "lists-heldout": [_list(request, random_numbers) for request in held_out_requests],
        "sums-train": [_sum_pair(problem) for problem in wrong_ones],
        "sums-heldout": [_sum_pair(problem) for problem in held_out if problem.carries],
    }


def _list(request: Request, random_numbers: random.Random) -> Row:
    """Four answers in any order; being right counts for less than being friendly."""
    answers = [
        (random_numbers.choice(FRIENDLY).format(request.right), 1.0),
        (random_numbers.choice(FRIENDLY).format(request.wrong), 0.6),
        (random_numbers.choice(RUDE).format(request.right), 0.4),
        (random_numbers.choice(RUDE).format(request.wrong), 0.0),
    ]
    random_numbers.shuffle(answers)
    completions, scores = zip(*answers, strict=True)
    return {"prompt": request.prompt, "completions": list(completions), "scores": list(scores)}


def _traces(seed: int, train: Sequence[Problem], held_out: Sequence[Problem]) -> dict[str, list[Row]]:
    random_numbers = random.Random(f"{seed} traces")
    return {
        "traces-train": [_traced(problem, random_numbers) for problem in train],
        "traces-heldout": [_traced(problem, random_numbers) for problem in held_out],
    }


def _traced(problem: Problem, random_numbers: random.Random) -> Row:
    """Four traces of two to four answers; what a trace says last decides whether it is right."""
    wrong = problem.careless if problem.carries else str(int(problem.answer) + 10)
    said = [
        [random_numbers.choice((problem.answer, wrong)) for _ in range(random_numbers.randint(2, 4))] for _ in range(4)
    ]
    completions = [" Check: ".join(f"{answer}." for answer in answers) for answers in said]
    scores = [1.0 if answers[-1] == problem.answer else 0.0 for answers in said]
    return {"prompt": problem.prompt, "completions": completions, "scores": scores}


def _sum_pair(problem: Problem) -> Row:
    return {"prompt": problem.prompt, "chosen": problem.answer, "rejected": problem.careless}


def _prompt(problem: Problem) -> Row:
    """The hint is the first line of the solution: what the units give."""
    a, b = problem.a % 10, problem.b % 10
    level = "carry" if problem.carries else "plain"
    return {"prompt": problem.prompt, "answer": problem.answer, "level": level, "hint": f"{a} + {b} = {a + b}"}


def _other_prompts(seed: int, train: Sequence[Problem], held_out: Sequence[Problem]) -> dict[str, list[Row]]:
    random_numbers = random.Random(f"{seed} prompts")
    rows = bandits(random_numbers, BANDITS, HELD_OUT_BANDITS)
    for split, problems in (("train", train), ("heldout", held_out)):
        rows[f"programs-{split}"] = [program(problem.prompt, problem.answer) for problem in problems]
        rows[f"prefixes-{split}"] = [
            row
            for problem in problems[:STEPWISE_PROBLEMS]
            for row in prefixes_of(WorkedSum.of(problem.a, problem.b, random_numbers))
        ]
    return rows


def _choices(seed: int, train: Sequence[Problem], held_out: Sequence[Problem]) -> dict[str, list[Row]]:
    random_numbers = random.Random(f"{seed} choices")
    return {
        f"choices-{split}": [_choice(problem, random_numbers) for problem in problems]
        for split, problems in (("train", train), ("heldout", held_out))
    }


def _choice(problem: Problem, random_numbers: random.Random) -> Row:
    """Four numbers in any order: the right one, what comes of a forgotten carry, and near misses."""
    right = int(problem.answer)
    candidates = [problem.answer, problem.careless, *(str(right + miss) for miss in (1, 10, -1))]
    choices = list(dict.fromkeys(candidates))[:4]
    random_numbers.shuffle(choices)
    return {"prompt": problem.prompt, "choices": choices, "answer": "ABCD"[choices.index(problem.answer)]}


def _steps(seed: int, train: Sequence[Problem], held_out: Sequence[Problem]) -> dict[str, list[Row]]:
    random_numbers = random.Random(f"{seed} steps")
    rows: dict[str, list[Row]] = {}
    for split, problems in (("train", train), ("heldout", held_out)):
        worked = [WorkedSum.of(problem.a, problem.b, random_numbers) for problem in problems]
        rows[f"steps-{split}"] = [step_pair(one) for one in worked]
        rows[f"trees-{split}"] = [search_tree(one) for one in worked]
        rows[f"values-{split}"] = [valued_steps(one, random_numbers) for one in worked]
    return rows


def _split(items: Sequence[Any], *sizes: int) -> tuple[list[Any], ...]:
    """Consecutive parts of the given sizes, and the rest."""
    parts, start = [], 0
    for size in sizes:
        parts.append(list(items[start : start + size]))
        start += size
    return (*parts, list(items[start:]))


def _other(choices: Sequence[str], one: str, random_numbers: random.Random) -> str:
    return random_numbers.choice([choice for choice in choices if choice != one])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="directory for the files")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    options = parser.parse_args()
    for path in write_rows(options.output, options.seed):
        print(path)


if __name__ == "__main__":
    main()
