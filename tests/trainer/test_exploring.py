"""Stages of exploration in real jobs: what budgets, rescue and replay leave behind for updates, the next rollout, and
the count of failed verifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_trainer.distributed import Ranks
from plumbline_trainer.objectives.policy.preparation import PROMPT_WEIGHT
from plumbline_trainer.rollout.experience import Experience
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.rlvr import RLVRTask, build
from plumbline_trainer.tasks.task import Batch
from tests.trainer.rlvr_jobs import write_job

Open = Callable[..., RLVRTask]

NEVER_RIGHT = [{"name": "right", "verifier": {"exactMatch": {"extract": "[7-9]"}}}]
"""The model has no such words."""


@pytest.fixture
def open_task(tmp_path: Path, model: Path) -> Iterator[Open]:
    opened: list[RLVRTask] = []

    def open_one(patch: dict[str, Any], **training: Any) -> RLVRTask:
        stop = StopRequest()
        limits = {"steps": 8, "batchSize": 24, "maxCompletionTokens": 2, **training}
        opened.append(build(write_job(tmp_path, model, patch, limits), Ranks(stop, torch.device("cpu")), stop))
        return opened[-1]

    yield open_one
    for task in opened:
        task.close()


def experiences(batch: Batch) -> list[Experience]:
    return [one for micro_batch in batch.micro_batches for one in micro_batch.experiences]


def budgeted(open_task: Open, objective: dict[str, Any]) -> list[Experience]:
    """The 24 completions of six prompts, of some more than of others."""
    task = open_task(
        {
            "objective": objective,
            "exploration.budget": {"gradientVariance": {}},
            "entropy": {"bonus": {"coefficient": 0.01}},  # so that no completion is left out
        }
    )
    for step in range(3):
        batch = task.prepare(step)
    found = experiences(batch)
    samples = torch.tensor([one.slot for one in found]).bincount()
    assert samples.sum() == 24 and len(samples) == 6 and samples.max() > samples.min()
    return found


@pytest.mark.parametrize("objective", ["grpo", "raft", "wReinforce", "marginalLikelihood", "gvpo", "mdpo"])
def test_under_a_budget_every_prompt_keeps_its_weight(open_task: Open, objective: str) -> None:
    totals = torch.zeros(6)
    for one in budgeted(open_task, {objective: {}}):
        totals[one.slot] += one.prepared[PROMPT_WEIGHT]
    torch.testing.assert_close(totals, torch.full((6,), 4.0))


@pytest.mark.parametrize("objective", [{"expertIteration": {}}, {"mleAugmented": {}}, {"raft": {"keep": "best"}}])
def test_what_counts_once_weighs_the_same_of_many_samples_and_of_few(
    open_task: Open, objective: dict[str, Any]
) -> None:
    assert all(PROMPT_WEIGHT not in one.prepared for one in budgeted(open_task, objective))


def test_under_a_budget_advantages_stay_what_they_are(open_task: Open) -> None:
    """Here they are the rewards, 1 or 0, and completions without advantage are left out."""
    task = open_task(
        {
            "objective": {"drGrpo": {}},
            "advantage": {"none": {}},
            "rewards": [{"name": "short", "verifier": {"regex": {"pattern": r"\S+", "mode": "fullMatch"}}}],
            "exploration.budget": {"gradientVariance": {}},
        }
    )
    for step in range(3):
        found = experiences(task.prepare(step))
    assert found and all(set(one.advantages.tolist()) == {1.0} for one in found)


@pytest.mark.parametrize("rescue", [{"gold": {}}, {"guidance": {"template": "{prompt} Hint: {hint}", "samples": 2}}])
def test_a_budget_goes_by_what_the_policy_solved_without_help(open_task: Open, rescue: dict[str, Any]) -> None:
    task = open_task(
        {
            "rewards": NEVER_RIGHT,
            "exploration.budget": {"gradientVariance": {}},
            "exploration.rescue": rescue,
        }
    )
    task.prepare(0)
    sums = torch.tensor(task.state_dict()["collector"]["exploration"]["budget"]["sums"])
    assert sums[:, 0].tolist() == [4.0] * 6
    assert sums[:, 1].tolist() == [0.0] * 6


def update(task: RLVRTask, batch: Batch, rate: float = 0.5) -> None:
    """One step of gradient descent."""
    for micro_batch in batch.micro_batches:
        task.loss(micro_batch)[0].backward()
    with torch.no_grad():
        for parameter in task.model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(("objective", "weighs"), [("grpo", False), ("decoupledPpo", True)])
def test_the_ratio_of_a_replayed_sample_is_to_the_policy_now_where_it_is_weighted_by_its_sampler(
    open_task: Open, objective: str, weighs: bool, updates: int
) -> None:
    """(pi_prox / pi_behav) min(r A, clip(r) A) with r = pi / pi_prox, or min(r A, clip(r) A) with r = pi / pi_behav."""
    task = open_task(
        {
            "objective": {objective: {}},
            "exploration.replay": {"possibilityPassRate": {"share": 1.0}},
            "rollout.updatesPerRollout": updates,
        },
        microBatchSize=1,
    )
    for step in range(updates):
        first = task.prepare(step)
        sampled = {(one.row, *one.tokens): one for one in experiences(first)}
        update(task, first)
    replayed = 0
    for micro_batch in task.prepare(updates).micro_batches:
        [one] = micro_batch.experiences
        _, metrics = task.loss(micro_batch)
        if one.slot < 6:
            assert metrics["ratio"].value == pytest.approx(1.0, abs=1e-5)
            continue
        replayed += 1
        behaviour = sampled[(one.row, *one.tokens)].sampled_logprobs
        torch.testing.assert_close(one.sampled_logprobs, behaviour, atol=1e-4, rtol=0)
        assert metrics["sampler_gap"].count == 0
        assert (metrics["ratio"].value == pytest.approx(1.0, abs=1e-5)) == weighs
        if weighs:
            assert metrics["staleness_weight"].value != pytest.approx(1.0, abs=1e-3)
    assert replayed > 0


def test_a_hinted_sample_is_weighted_by_its_sampler_too(open_task: Open) -> None:
    task = open_task(
        {
            "objective": {"decoupledPpo": {}},
            "exploration.rescue": {"guidance": {"template": "{prompt} Hint: {hint}", "samples": 4}},
            "rewards": NEVER_RIGHT,
            "entropy": {"bonus": {"coefficient": 0.01}},  # so that no completion is left out
        },
        microBatchSize=1,
    )
    hinted = 0
    for micro_batch in task.prepare(0).micro_batches:
        [one] = micro_batch.experiences
        _, metrics = task.loss(micro_batch)
        assert metrics["ratio"].value == pytest.approx(1.0)
        if one.stale:
            hinted += 1
            assert metrics["staleness_weight"].value != pytest.approx(1.0, abs=1e-4)
    assert hinted == 24
