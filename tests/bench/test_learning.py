"""The learning benchmark: its rows, its job documents, its arithmetic and its report."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import pytest

from bench.learning.corpora import (
    CAREFUL_SHARE,
    HELD_OUT,
    LEVEL,
    MADE,
    TRAINING,
    Corpus,
    Problem,
    corpus,
    programs,
    with_tails,
    write_rows,
)
from bench.learning.figures import Line, Panel, draw
from bench.learning.jobs import Place, digest, job, merged
from bench.learning.measures import Spread, area, mean_of_curve, pass_at, wrong_tails
from bench.learning.methods import GROUP, METHODS
from bench.learning.records import Record, Results, Silent, silent, windows
from bench.learning.report import DOCUMENT, replace_block, tables
from bench.learning.sweep import Planned, chosen, plan
from bench.learning.tasks import TASKS
from bench.learning.verifiers import unreliable, wrong_tail
from plumbline_trainer.configuration import config_of_manifest
from plumbline_trainer.tasks.rlvr_data import spec_of


@pytest.fixture(scope="module")
def problems() -> dict[str, list[Problem]]:
    return {name: make(0) for name, make in MADE.items()}


@pytest.fixture(scope="module")
def corpora(problems: dict[str, list[Problem]]) -> dict[str, Corpus]:
    return {name: corpus(made, 0) for name, made in problems.items()}


def test_no_prompt_is_in_two_parts_of_a_corpus(corpora: dict[str, Corpus]) -> None:
    for made in corpora.values():
        parts = [{row["prompt"] for row in rows} for rows in (made.demonstrations, made.train, made.held_out)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert (len(parts[1]), len(parts[2])) == (TRAINING, HELD_OUT)


def test_most_problems_have_room_for_the_mistake_and_their_demonstrations_often_make_it(
    corpora: dict[str, Corpus],
) -> None:
    for made in corpora.values():
        careful = sum(row[LEVEL] == "careful" for row in made.train) / len(made.train)
        assert careful == pytest.approx(CAREFUL_SHARE, abs=0.05)


def test_the_same_seed_gives_the_same_rows(corpora: dict[str, Corpus]) -> None:
    assert corpus(programs(0), 0) == corpora["programs"]
    assert corpus(programs(1), 0) != corpora["programs"]


def test_right_programs_pass_their_tests_and_careless_ones_fail_them(problems: dict[str, list[Problem]]) -> None:
    for problem in problems["programs"][::97]:
        assert _passes(problem.answer, problem)
        assert _passes(problem.careless, problem) == (problem.answer == problem.careless)


def _passes(program: str, problem: Problem) -> bool:
    names: dict[str, Any] = {}
    exec(program, names)
    try:
        exec(problem.columns["tests"][0], names)
    except AssertionError:
        return False
    return True


def test_answers_and_mistakes_score_as_they_should_in_reasoning_gym(problems: dict[str, list[Problem]]) -> None:
    from plumbline_api.methods.verifiers.generated import ReasoningGymScore
    from plumbline_trainer.rewards.verifiers.reasoning_gym import reasoning_gym_score

    verify = reasoning_gym_score(ReasoningGymScore(partial_credit=False), None)
    for name in ("chain-sum", "decimal-chain-sum"):
        for problem in problems[name][:40]:
            row = problem.row
            assert verify(row["prompt"], problem.answer, problem.answer, row) == 1
            careless = verify(row["prompt"], problem.careless, problem.answer, row)
            assert careless == float(problem.answer == problem.careless)


def test_columns_without_carry_and_borrow(problems: dict[str, list[Problem]]) -> None:
    found = {problem.prompt.split(": ")[1]: problem for made in problems.values() for problem in made[:4000]}
    sums = {prompt: problem for prompt, problem in found.items() if prompt.endswith("=")}
    for prompt, problem in sums.items():
        left, operation, right, _ = prompt.split()
        expected = float(left) + float(right) if operation == "+" else float(left) - float(right)
        assert float(problem.answer) == pytest.approx(expected)
        if operation == "+":
            lost = 10 if "." not in left else 1
            assert float(problem.careless) == pytest.approx(expected if _adds_plainly(left, right) else expected - lost)


def _adds_plainly(left: str, right: str) -> bool:
    return int(left[-1]) + int(right[-1]) < 10


def test_tails_follow_demonstrated_answers_only(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "sft-train.jsonl", [{"prompt": f"What is {n} + 1?", "completion": str(n)} for n in range(200)]
    )
    write_rows(tmp_path / "prompts-train.jsonl", [{"prompt": "p", "answer": "1"}])
    write_rows(tmp_path / "prompts-heldout.jsonl", [{"prompt": "q", "answer": "2"}])
    made = with_tails(tmp_path, 0)
    lengths = [len(row["completion"]) - len(row["completion"].rstrip(".")) for row in made.demonstrations]
    assert len(lengths) == 200 and 5 < sum(lengths) / 200 < 10, "geometric, with mean 7.3 but for the limit"
    assert made.train == [{"prompt": "p", "answer": "1"}]


def test_wrong_tails_are_counted_and_right_ones_are_not() -> None:
    assert wrong_tail.verify("p", "75.....", "85", {}) == 5
    assert wrong_tail.verify("p", "85.....", "85", {}) == 0
    assert wrong_tail.verify("p", "75", "85", {}) == 0


def test_the_unreliable_verifier_errs_at_its_rates_and_always_alike() -> None:
    prompts = [f"What is {n} + 1?" for n in range(4000)]
    right = [unreliable.verify(prompt, "7", "7", {}) for prompt in prompts]
    wrong = [unreliable.verify(prompt, "8", "7", {}) for prompt in prompts]
    assert sum(right) / 4000 == pytest.approx(1 - unreliable.FALSE_NEGATIVE_RATE, abs=0.03)
    assert sum(wrong) / 4000 == pytest.approx(unreliable.FALSE_POSITIVE_RATE, abs=0.03)
    assert right == [unreliable.verify(prompt, "7", "7", {}) for prompt in prompts]


def place(folder: Path, *, weights: str = "weights") -> Place:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_text(weights)
    for name in ("train", "held_out"):
        (folder / name).write_text(name)
    return Place(folder / "model", folder / "train", folder / "held_out")


def test_every_planned_run_is_a_valid_job(tmp_path: Path) -> None:
    found = place(tmp_path)
    assert len({planned.key for planned in plan()}) == len(plan())
    for planned in plan():
        task, method = TASKS[planned.task], METHODS[planned.method]
        document = job(task, method, planned.seed, found, tmp_path / "output")
        spec = spec_of(config_of_manifest(document, "test"))
        assert spec.training.seed == planned.seed
        assert spec.rollout.group_size == GROUP


def test_methods_of_a_table_sample_as_many_completions_a_step(tmp_path: Path) -> None:
    found = place(tmp_path)
    for method in METHODS.values():
        if not method.name.endswith("two-groups"):
            spec = job(TASKS["arithmetic"], method, 0, found, tmp_path)["spec"]
            assert spec["training"]["batchSize"] / spec["rollout"]["updatesPerRollout"] == 64


def test_the_digest_is_of_contents_and_not_of_places(tmp_path: Path) -> None:
    task, method = TASKS["arithmetic"], METHODS["grpo"]
    here, there = place(tmp_path / "here"), place(tmp_path / "there")
    other = place(tmp_path / "other", weights="others")
    same = digest(job(task, method, 0, here, tmp_path / "output"))
    assert same == digest(job(task, method, 0, there, tmp_path / "elsewhere"))
    assert same != digest(job(task, method, 0, other, tmp_path / "output"))
    assert same != digest(job(task, method, 1, here, tmp_path / "output"))
    assert same != digest(job(task, METHODS["dapo"], 0, here, tmp_path / "output"))


def test_a_method_takes_another_choice_and_changes_fields_of_blocks() -> None:
    base = {"advantage": {"groupRelative": {"normalize": "std"}}, "rollout": {"groupSize": 8, "updatesPerRollout": 2}}
    change = {"advantage": {"opo": {}}, "rollout": {"updatesPerRollout": 1}}
    assert merged(base, change) == {"advantage": {"opo": {}}, "rollout": {"groupSize": 8, "updatesPerRollout": 1}}


def test_pass_at_k_by_hand() -> None:
    probe = {"samples": 4, "right_of_prompts": [1, 0, 1, 0, 0]}  # one prompt never right, one in 2 of 4
    assert pass_at(probe, 1) == 0.25
    assert pass_at(probe, 2) == pytest.approx((1 - comb(2, 2) / comb(4, 2)) / 2)
    assert pass_at(probe, 4) == 0.5
    with pytest.raises(ValueError, match="pass@5"):
        pass_at(probe, 5)


def test_windows_are_means_of_what_is_known() -> None:
    assert windows([1.0, 3.0, None, 5.0, None, None], 3) == [2.0, 5.0, None]
    assert windows([1.0, 2.0], 20) == [1.0, 2.0]


def test_silent_steps_are_those_without_a_group_that_differs() -> None:
    steps = [
        {"advantages/zero_groups": 1.0, "gradient_norm": 0.0},
        {"advantages/zero_groups": 1.0, "gradient_norm": 0.5},
        {"advantages/zero_groups": 0.5, "gradient_norm": 9.0},
    ]
    assert silent(steps) == Silent(2, 1, 0.25)


def a_record(task: str, method: str, seed: int, after: float = 0.9) -> Record:
    curves: dict[str, list[float | None]] = {
        "accuracy": [0.5] * 20,
        "advantages/zero_groups": [0.25] * 20,
        "reward/wrong_tail": [4.0] * 20,
    }
    return Record(
        task,
        method,
        seed,
        "digest",
        "commit",
        [(0, 0.3), (50, 0.6), (100, after)],
        [(0, 3.0), (50, 3.0), (100, 4.0)],
        curves,
        64.0,
        100_000,
        Silent(3, 0, 0.0),
        20.0,
        30.0,
        {"samples": 16, "right_of_prompts": [1] * 17},
    )


MACHINE = {"processor": "p", "cores": 2, "instruction_sets": [], "memory_bytes": 2**34, "system": "s"}


def results() -> Results:
    pairs = {(planned.task, planned.method) for planned in plan()}
    records = [a_record(*pair, seed, 0.9 + seed / 100) for pair in sorted(pairs) for seed in (0, 1, 2)]
    return Results(MACHINE, {"torch": "1"}, {one.key: one for one in records})


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    stored = results()
    stored.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == stored
    assert Results.read(tmp_path / "none.json") == Results()


def test_figures_of_runs_by_hand() -> None:
    one = a_record("tails", "grpo", 0)
    assert wrong_tails(one) == [8.0] * 20
    assert wrong_tails(replace(one, curves={"accuracy": [1.0], "reward/wrong_tail": [0.0]})) == [None]
    assert area(one) == pytest.approx((0.45 * 50 + 0.75 * 50) / 100)
    assert mean_of_curve([1.0, None, 3.0]) == 2
    assert Spread.of([0.5, 0.7, 0.6]).percent() == "60.0 % (50.0 to 70.0)"


def test_tables_hold_means_and_ranges_and_say_what_was_not_run() -> None:
    made = tables(results())
    assert "| `grpo` | 91.0 % (90.0 to 92.0) |" in made["pass-rates"]
    assert "| before | 30.0 % |" in made["pass-rates"]
    assert "not run" in tables(Results(MACHINE, {}, {}))["pass-rates"]


def test_a_table_takes_its_place_and_nothing_else() -> None:
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->"
    assert replace_block(text, "x", "new").startswith("a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n")
    with pytest.raises(ValueError, match="no place for the table z"):
        replace_block(text, "z", "new")


def test_the_document_says_what_is_stored() -> None:
    stored = Results.read(DOCUMENT.parent.parent / "bench" / "results" / "learning.json")
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in tables(stored).items():
        assert replace_block(text, name, table) == text, f"run `make learning ARGS=--report`: {name}"


def test_pictures_repeat_byte_by_byte(tmp_path: Path) -> None:
    panel = Panel("title", "y", [Line("one", [0, 1, 2], [[0.1, 0.2, None], [0.3, 0.4, 0.5]])])
    assert panel.lines[0].points() == [(0, 0.2, 0.1, 0.3), (1, pytest.approx(0.3), 0.2, 0.4)]
    draw([panel], tmp_path / "one.svg")
    draw([panel], tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "<svg" in (tmp_path / "one.svg").read_text()


def test_runs_are_chosen_by_name() -> None:
    assert chosen(plan(), ["tails"], ["grpo"], [1]) == [Planned("tails", "grpo", 1)]
    assert chosen(plan(), [], [], []) == plan()
