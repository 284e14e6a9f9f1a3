"""Jobs that learn values: the known optimum, the backup by the frozen reference, picking samples in evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.modeling.logprobs import causal_model
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.reranking import picked_accuracy
from plumbline_trainer.tasks.rlvr import RLVRTask, build
from tests.trainer.rlvr_jobs import ROWS, WORDS, write_job

Open = Callable[..., RLVRTask]
SCALE = 0.5
"""What is wrong comes 2 below what is right in its logit, and so is sampled all the time."""

JOB: dict[str, Any] = {
    "objective": {"conservativeBellman": {"scale": SCALE}},
    "critic": {"shared": {"learningRate": 0.03, "trunkCoefficient": 1.0}},
    "rewards": [{"name": "right", "verifier": {"exactMatch": {}}}],
    "rollout.groupSize": 8,
    "rollout.updatesPerRollout": 4,
}


@pytest.fixture
def open_task(tmp_path: Path, model: Path) -> Iterator[Open]:
    opened: list[RLVRTask] = []

    def open_one(
        patch: dict[str, Any], change: Callable[[TrainerConfig], TrainerConfig] = lambda one: one, **training: Any
    ) -> RLVRTask:
        stop = StopRequest()
        limits = {"steps": 300, "batchSize": 48, "maxCompletionTokens": 1, **training}
        config = change(write_job(tmp_path, model, patch, limits))
        opened.append(build(config, Ranks(stop, torch.device("cpu")), stop))
        return opened[-1]

    yield open_one
    for task in opened:
        task.close()


def learn(task: RLVRTask, steps: int) -> None:
    """The job's steps with the smallest trainer that they need."""
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        optimizer.zero_grad()
        for micro_batch in task.prepare(step).micro_batches:
            task.loss(micro_batch)[0].backward()
        optimizer.step()
        task.step_done(step)
        schedule.step()


@torch.no_grad()
def action_values(task: RLVRTask, ids: list[int]) -> torch.Tensor:
    """[V]: Q of every token behind `ids`, from all of the model's logits and the critic's own head."""
    assert task._critic is not None
    inner = causal_model(task.model)
    out = inner(torch.tensor([ids]), output_hidden_states=True)
    logits = out.logits[0, -1]
    [value] = task._critic._model(out.hidden_states[-1][:, -1].float()).flatten().tolist()
    return SCALE * (logits - logits.max()) + value


def with_held_out(config: TrainerConfig) -> TrainerConfig:
    """The training rows are the held-out ones, too."""
    document = config.model_dump(by_alias=True, exclude_none=True)
    document["rlvr"]["data"]["evaluation"] = document["rlvr"]["data"]["train"]
    document["paths"]["evaluation"] = document["paths"]["train"]
    return TrainerConfig.model_validate(document)


def test_values_of_a_bandits_arms_are_their_rewards_and_pick_samples(open_task: Open) -> None:
    """Completions of one word: Q(prompt, word) is its reward, 1 for the answer and 0 for 17 others."""
    task = open_task({**JOB, "evaluation.samples": 8}, with_held_out)
    learn(task, 120)
    for row, ids in zip(ROWS, task.train.prompt_ids, strict=True):
        found = action_values(task, list(ids))
        answer = WORDS.index(str(row["answer"]))
        assert int(found.argmax()) == answer
        assert found[answer].item() == pytest.approx(1.0, abs=0.15)
        others = torch.cat([found[:answer], found[answer + 1 :]])
        assert others.abs().mean().item() < 0.15
    metrics = task.evaluate()
    assert metrics["accuracy"] == 1.0
    assert metrics["pass_at/1"] < 0.6 < metrics["pass_at/8"], "samples are often wrong"
    assert metrics["reranked_accuracy"] == pytest.approx(metrics["pass_at/8"]), "a right sample is always picked"


def test_a_token_is_worth_what_the_references_greedy_choice_makes_of_it(open_task: Open) -> None:
    """Two words: what is learnt of the first one is its reward if the frozen reference wrote the second one."""
    second = r"\S+ [a-d]"
    two = {**JOB, "rewards": [{"name": "right", "verifier": {"regex": {"pattern": second, "mode": "fullMatch"}}}]}
    task = open_task(two, maxCompletionTokens=2)
    reference, prompts = causal_model(task.model), [list(ids) for ids in task.train.prompt_ids]
    expected: dict[tuple[int, int], bool] = {}
    with torch.no_grad():
        for row, ids in enumerate(prompts):
            for word in map(WORDS.index, "abcdefgh0123"):
                greedy = int(reference(torch.tensor([[*ids, word]])).logits[0, -1].argmax())
                expected[row, word] = WORDS[greedy] in "abcd"
    assert 0 < sum(expected.values()) < len(expected), "the reference is right behind some words and not behind others"
    learn(task, 120)
    learnt = {(row, word): float(action_values(task, prompts[row])[word]) for row, word in expected}
    behind = [float(action_values(task, [*prompts[row], word]).max()) for row, word in expected]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    right, wrong = (mean([learnt[key] for key, found in expected.items() if found is one]) for one in (True, False))
    assert right > wrong + 0.25
    # a right second word exists behind every first one and is found: Q-learning would give all of them 1
    assert wrong < 0.3 and mean(behind) > 0.7


def test_other_objectives_rank_nothing(open_task: Open) -> None:
    task = open_task({"evaluation.samples": 2}, with_held_out)
    assert "reranked_accuracy" not in task.evaluate()


def test_picking_leaves_out_what_has_no_verdict() -> None:
    scores = torch.tensor([0.5, 0.9, 0.1, 0.3, 0.2])
    right = torch.tensor([True, False, True, False, True])
    judged = torch.tensor([True, False, True, True, False])
    prompts = torch.tensor([4, 4, 4, 5, 6])
    found = picked_accuracy(scores, right, judged, prompts)
    assert (float(found.total), float(found.count)) == (1.0, 2.0)


def test_the_references_tokens_are_part_of_a_rollout_in_a_checkpoint(open_task: Open) -> None:
    """The second update of a rollout after a resume has the frozen reference's choices, which it cannot ask for."""
    patch = {**JOB, "rollout.updatesPerRollout": 2}
    first, second = (open_task(patch) for _ in range(2))
    for micro_batch in first.prepare(0).micro_batches:
        first.loss(micro_batch)[0].backward()
    first.step_done(0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for one, other in zip(first.prepare(1).micro_batches, second.prepare(1).micro_batches, strict=True):
        for mine, its in zip(one.experiences, other.experiences, strict=True):
            assert mine.reference_tokens is not None and its.reference_tokens is not None
            assert torch.equal(mine.reference_tokens, its.reference_tokens)
            assert mine.reference_logprobs is None, "nothing compares likelihoods"
