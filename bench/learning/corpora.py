"""Rows of the tasks: problems of reasoning-gym, short programs, and sums whose answer has a tail.

Every task has demonstrations for a warm-up, problems to learn from and held-out problems; no prompt is in two of them.
Demonstrations are those of somebody who often makes one mistake, as with the tiny model's sums: what imitates them is
right now and then, which is what reinforcement learning can find and strengthen.

| task | the demonstrations' mistake |
|---|---|
| chain_sum, decimal_chain_sum | no carry, and the smaller digit is always taken from the larger one |
| programs | parentheses are forgotten |
| tails | the carry is forgotten; the answer is followed by any number of dots |
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbline_api.methods.prompt_generator import ReasoningGym
from plumbline_api.sources import DatasetColumns
from plumbline_trainer.data.reasoning_gym import reasoning_gym_rows

Row = dict[str, Any]

HELD_OUT = 300
TRAINING = 1500
DEMONSTRATED = 3600
"""Problems with demonstrations, `DEMONSTRATIONS` of each."""

DEMONSTRATIONS = 3
CAREFUL_SHARE = 2 / 3
"""Share of the problems in which the mistake shows."""

CARELESS_SHARE = 0.65
"""Share of the demonstrations of those problems that make it."""

TAIL_END = 0.12
"""Probability that a tail ends before its next dot."""

LONGEST_TAIL = 40
PROGRAM_INPUTS = (1, 2, 5, 11)
"""What programs are tested on; no two different programs of the corpus agree on all of them."""

GYM_CONFIGS = {
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
    "decimal_chain_sum": {
        "min_terms": 2,
        "max_terms": 2,
        "min_digits": 1,
        "max_digits": 1,
        "min_decimal_places": 1,
        "max_decimal_places": 1,
    },
}
LEVEL = "level"
"""Column with the kind of a problem: `plain`, or `careful` where the mistake would show."""


@dataclass(frozen=True)
class Problem:
    """A problem, its right answer, and what somebody careless writes."""

    prompt: str
    answer: str
    careless: str
    columns: Row = field(default_factory=dict)
    """What verifiers read besides."""

    @property
    def row(self) -> Row:
        level = "plain" if self.answer == self.careless else "careful"
        return {"prompt": self.prompt, "answer": self.answer, LEVEL: level, **self.columns}


@dataclass(frozen=True)
class Corpus:
    """The rows of one task."""

    demonstrations: list[Row]
    train: list[Row]
    held_out: list[Row]

    def write(self, directory: Path) -> None:
        """Writes `demonstrations.jsonl`, `train.jsonl` and `heldout.jsonl`."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, rows in (("demonstrations", self.demonstrations), ("train", self.train), ("heldout", self.held_out)):
            write_rows(directory / f"{name}.jsonl", rows)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Reads JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def chain_sums(seed: int) -> list[Problem]:
    """Sums and differences of two numbers of two digits."""
    return [_chain_sum(row, "{}{}") for row in _gym("chain_sum", seed)]


def decimal_chain_sums(seed: int) -> list[Problem]:
    """Sums and differences of two numbers of a digit, a point and a digit."""
    return [_chain_sum(row, "{}.{}") for row in _gym("decimal_chain_sum", seed)]


def programs(seed: int) -> list[Problem]:
    """Functions of one number that do two things, one after the other."""
    draw = random.Random(f"{seed} programs")
    every = [
        _program(first, a, second, b)
        for first in _OPERATIONS
        for second in _OPERATIONS
        for a in range(2, 30)
        for b in range(2, 30)
    ]
    draw.shuffle(every)
    return every


def corpus(problems: Sequence[Problem], seed: int) -> Corpus:
    """Splits problems, `CAREFUL_SHARE` of them that can go wrong. Raises `ValueError` where there are too few."""
    draw = random.Random(f"{seed} demonstrations")
    problems = _mixed(problems, draw)
    held_out, train = problems[:HELD_OUT], problems[HELD_OUT : HELD_OUT + TRAINING]
    shown = problems[HELD_OUT + TRAINING : _WANTED]
    demonstrations = [
        {"prompt": one.prompt, "completion": one.careless if draw.random() < CARELESS_SHARE else one.answer}
        for one in shown
        for _ in range(DEMONSTRATIONS)
    ]
    draw.shuffle(demonstrations)
    return Corpus(demonstrations, [one.row for one in train], [one.row for one in held_out])


def with_tails(data: Path, seed: int) -> Corpus:
    """The tiny model's sums (`data` is its folder of rows), with a tail of dots behind every demonstrated answer."""
    draw = random.Random(f"{seed} tails")
    demonstrations = [
        {**row, "completion": row["completion"] + "." * _tail(draw)}
        for row in read_rows(data / "sft-train.jsonl")
        if re.fullmatch(r"\d+", row["completion"])
    ]
    return Corpus(demonstrations, read_rows(data / "prompts-train.jsonl"), read_rows(data / "prompts-heldout.jsonl"))


MADE: dict[str, Callable[[int], list[Problem]]] = {
    "chain-sum": chain_sums,
    "decimal-chain-sum": decimal_chain_sums,
    "programs": programs,
}
"""Problems by task."""

_WANTED = HELD_OUT + TRAINING + DEMONSTRATED

_OPERATIONS: dict[str, tuple[str, str]] = {
    "add": ("add {}", "{} + {}"),
    "subtract": ("subtract {}", "{} - {}"),
    "times": ("multiply by {}", "{} * {}"),
    "from": ("take it from {}", "{1} - {0}"),
}
"""What is asked for, and the expression: of the operand so far and a number."""

_ADDITIVE = ("add", "subtract", "from")


def _program(first: str, a: int, second: str, b: int) -> Problem:
    inner = _OPERATIONS[first][1].format("x", a)
    outer = _OPERATIONS[second][1]
    grouped = first in _ADDITIVE and second in ("times", "from")
    right = outer.format(f"({inner})" if grouped else inner, b)
    wrong = outer.format(inner, b)
    prompt = f"Write f: {_OPERATIONS[first][0].format(a)}, then {_OPERATIONS[second][0].format(b)}."
    function = eval(f"lambda x: {right}")
    outputs = [function(x) for x in PROGRAM_INPUTS]
    # one test over all inputs: every test is a call into the sandbox
    test = f"assert [f(x) for x in {list(PROGRAM_INPUTS)}] == {outputs}"
    return Problem(prompt, f"def f(x): return {right}", f"def f(x): return {wrong}", {"tests": [test]})


def _gym(task: str, seed: int) -> list[Row]:
    """Different problems of a task of reasoning-gym, as rows that its verifier can score."""
    size = 6 * _WANTED
    parameters = ReasoningGym(task=task, size=size, seed=seed, config=GYM_CONFIGS[task])
    made = reasoning_gym_rows(parameters, DatasetColumns(), None)
    return list({row.values["prompt"]: dict(row.values) for row in made}.values())


def _mixed(problems: Sequence[Problem], draw: random.Random) -> list[Problem]:
    careful = [problem for problem in problems if problem.answer != problem.careless]
    plain = [problem for problem in problems if problem.answer == problem.careless]
    wanted = round(_WANTED * CAREFUL_SHARE)
    if len(careful) < wanted or len(plain) < _WANTED - wanted:
        raise ValueError(f"{len(careful)} careful and {len(plain)} plain problems are too few for {_WANTED}")
    mixed = careful[:wanted] + plain[: _WANTED - wanted]
    draw.shuffle(mixed)
    return mixed


def _chain_sum(row: Row, form: str) -> Problem:
    """`form` writes a number from its two columns."""
    found = re.search(r": (\d)\.?(\d) ([-+]) (\d)\.?(\d) =", row["prompt"])
    assert found is not None
    left, right, other_left, other_right = (int(found[group]) for group in (1, 2, 4, 5))
    if found[3] == "+":
        columns = (left + other_left, (right + other_right) % 10)
    else:
        columns = (abs(left - other_left), abs(right - other_right))
    careless = form.format(*columns)
    if "." not in form:
        careless = str(int(careless))  # no zero in front
    return Problem(row["prompt"], row["answer"], careless, _gym_columns(row))


def _gym_columns(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("prompt", "answer")}


def _tail(draw: random.Random) -> int:
    length = 0
    while length < LONGEST_TAIL and draw.random() >= TAIL_END:
        length += 1
    return length
