"""Right completions of earlier rollouts in later ones, and what evaluations measure besides rewards, in real jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import DataError
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.rlvr import RLVRTask, build
from plumbline_trainer.tasks.rlvr_metrics import pass_at
from plumbline_trainer.tasks.task import Batch
from tests.trainer.rlvr_jobs import ROWS, write_job

Open = Callable[..., RLVRTask]


@pytest.fixture
def open_task(tmp_path: Path, model: Path) -> Iterator[Open]:
    opened: list[RLVRTask] = []

    def open_one(patch: dict[str, Any], change: Callable[[TrainerConfig], TrainerConfig] = lambda one: one) -> RLVRTask:
        stop = StopRequest()
        config = change(write_job(tmp_path, model, patch, {"steps": 8, "batchSize": 24, "maxCompletionTokens": 1}))
        opened.append(build(config, Ranks(stop, torch.device("cpu")), stop))
        return opened[-1]

    yield open_one
    for task in opened:
        task.close()


def imitated(task: RLVRTask, batch: Batch) -> set[tuple[int, str]]:
    """Row and text of every completion that is learnt from."""
    return {
        (one.row, task.tokenizer.decode(one.tokens, skip_special_tokens=True))
        for micro_batch in batch.micro_batches
        for one in micro_batch.experiences
        if float(one.prepared["weight"]) > 0
    }


def job(keep: int) -> dict[str, Any]:
    """Every prompt comes in every rollout; a completion is one word, of which one is right."""
    return {
        "objective": {"mleAugmented": {"keepSolutions": keep}},
        "rollout.sampling": {"stopTokens": ["0", "1", "2", "3"]},
        "rewards": [{"name": "right", "verifier": {"exactMatch": {}}}],
    }


def test_a_prompt_that_was_solved_once_is_imitated_in_every_later_rollout(open_task: Open) -> None:
    task = open_task(job(keep=1))
    known: set[tuple[int, str]] = set()
    recalled = 0
    for step in range(8):
        batch = task.prepare(step)
        found = imitated(task, batch)
        assert known <= found
        assert all(text == ROWS[row]["answer"] for row, text in found)
        recalled += sum(len(micro_batch.experiences) for micro_batch in batch.micro_batches) - 24
        assert batch.metrics["accuracy"].count == 24, "what is shown is about the policy's own completions"
        known = found
    assert recalled > 0 and len(known) > 3


def test_without_a_buffer_only_new_solutions_are_imitated(open_task: Open) -> None:
    task = open_task(job(keep=0))
    found = []
    for step in range(8):
        batch = task.prepare(step)
        assert sum(len(micro_batch.experiences) for micro_batch in batch.micro_batches) == 24
        found.append(imitated(task, batch))
    assert any(not before <= after for before, after in pairwise(found))


def test_kept_solutions_are_part_of_a_checkpoint(open_task: Open) -> None:
    first = open_task(job(keep=2))
    for step in range(4):
        first.prepare(step)
    second = open_task(job(keep=2))
    second.load_state_dict(first.state_dict())
    assert imitated(second, second.prepare(4)) == imitated(first, first.prepare(4))


def with_held_out(config: TrainerConfig) -> TrainerConfig:
    """The training rows are the held-out ones, too."""
    document = config.model_dump(by_alias=True, exclude_none=True)
    document["rlvr"]["data"]["evaluation"] = document["rlvr"]["data"]["train"]
    document["paths"]["evaluation"] = document["paths"]["train"]
    return TrainerConfig.model_validate(document)


def test_evaluations_measure_overthinking_and_play_of_bandits(open_task: Open) -> None:
    shaping = [{"solutionEfficiency": {"pattern": "[0-3]"}}, {"banditRegret": {"weight": 0}}, {"linearLength": {}}]
    metrics = open_task({"shaping": shaping}, with_held_out).evaluate()
    shown = {name.removeprefix("shaping/") for name in metrics if name.startswith("shaping/")}
    assert shown == {
        *(f"solutionEfficiency/{name}" for name in ("outcome", "process")),
        *(f"banditRegret/{name}" for name in ("invalid", "best_arm", "greedy", "suffix_failure")),
    }
    assert 0 <= metrics["shaping/solutionEfficiency/outcome"] <= metrics["accuracy"]


def test_evaluations_sample_for_pass_rates(open_task: Open) -> None:
    """The random model: one word of 18 is right, so the rates are near 1 - (17/18)^k, and they repeat exactly."""
    task = open_task({**job(keep=0), "evaluation.samples": 64}, with_held_out)
    metrics = task.evaluate()
    rates = {int(name.removeprefix("pass_at/")): rate for name, rate in metrics.items() if name.startswith("pass_at/")}
    assert list(rates) == [1, 2, 4, 8, 16, 32, 64]
    assert all(rates[k] == pytest.approx(1 - (17 / 18) ** k, abs=0.15) for k in rates)
    again = task.evaluate()
    assert [again[f"pass_at/{k}"] for k in rates] == list(rates.values())


def test_pass_rates_are_unbiased_and_need_k_verdicts() -> None:
    """One right of four, and two of two of which one has no verdict."""
    right = torch.tensor([True, False, False, False, True, True])
    judged = torch.tensor([True, True, True, True, True, False])
    found = pass_at(right, judged, torch.tensor([7, 7, 7, 7, 9, 9]))
    assert {name: (metric.total, metric.count) for name, metric in found.items()} == {
        "pass_at/1": (1.25, 2.0),
        "pass_at/2": (0.5, 1.0),
        "pass_at/4": (1.0, 1.0),
    }


def test_held_out_rows_must_have_the_columns_that_are_measured(open_task: Open, tmp_path: Path) -> None:
    def without_means(config: TrainerConfig) -> TrainerConfig:
        held_out = tmp_path / "held-out.jsonl"
        held_out.write_text('{"prompt": "a b", "answer": "1"}\n', encoding="utf-8")
        changed = with_held_out(config)
        paths = changed.paths.model_copy(update={"evaluation": str(held_out)})
        return changed.model_copy(update={"paths": paths})

    with pytest.raises(DataError, match=r"held-out.jsonl:1: means is missing; shaping\[0\].banditRegret reads it"):
        open_task({"shaping": [{"banditRegret": {}}]}, without_means)
