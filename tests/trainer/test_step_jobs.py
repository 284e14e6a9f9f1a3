"""Jobs on recorded searches and on valued steps, from the file to the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import DataError
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task, check_inputs
from plumbline_trainer.tasks.data_sets import open_renderer
from plumbline_trainer.tasks.preference import PreferenceTask

TREES = [
    {
        "prompt": f"prove {number}",
        "nodes": [
            {"id": 1, "parent": None, "text": "intro\n", "onPath": True, "value": 0.8},
            {"id": 2, "parent": None, "text": "ring\n", "error": "ring failed", "value": 0},
            {"id": 3, "parent": 1, "text": "simp\n", "onPath": True, "value": 1},
            {"id": 4, "parent": 1, "text": "omega\n", "error": "omega could not", "value": 0.1},
        ],
    }
    for number in range(6)
]
STEPS = [
    {
        "prompt": f"solve {number}",
        "steps": ["read\n", "guess\n"],
        "values": [0.6, 0.6, 0.2],
        "alternatives": [[], [{"text": "carry\n", "value": 0.9}]],
    }
    for number in range(6)
]

JOBS = [
    ({"stepDpo": {}}, {"searchTree": {}}, TREES),
    ({"stepDpo": {}}, {"valueGap": {"minGap": 0.1}}, TREES),
    ({"stepDpo": {}}, {"stepAdvantage": {}}, STEPS),
    ({"advantageDpo": {"gapScale": 0.7}}, {"stepAdvantage": {}}, STEPS),
    ({"advantageDpo": {"form": "softLabels"}}, {"valueGap": {}}, TREES),
]


def task_of(config: Any) -> PreferenceTask:
    stop = StopRequest()
    task = build_task(config, Ranks(stop, torch.device("cpu")), stop)
    assert isinstance(task, PreferenceTask)
    return task


def loss_of(task: PreferenceTask, step: int) -> torch.Tensor:
    return torch.stack([task.loss(micro_batch)[0] for micro_batch in task.prepare(step).micro_batches]).sum()


@pytest.mark.parametrize(("objective", "pairing", "rows"), JOBS)
def test_a_job_learns_to_prefer_the_better_steps(
    preference_config: Any, write_rows: Any, objective: Any, pairing: Any, rows: Any
) -> None:
    config = preference_config(objective, write_rows(rows), data={"pairing": pairing}, training={"batchSize": 6})
    assert check_inputs(config).training_rows == 6
    task = task_of(config)
    optimizer = torch.optim.SGD([p for p in task.model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(3):
        loss = loss_of(task, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5), "all gaps of the weighted job are its gapScale"
    assert losses[2] < losses[1] < losses[0]


def test_the_prefix_is_context_and_only_the_step_is_scored(preference_config: Any, write_rows: Any) -> None:
    config = preference_config({"stepDpo": {}}, write_rows(TREES[:1]), data={"pairing": {"searchTree": {}}})
    tokenizer = open_renderer(config).tokenizer

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids)).replace(" ", "")  # the tests' tokenizer has one token a character

    _, second = task_of(config).train.sequences
    assert [text(sequence.prompt_ids) for sequence in second] == ["<bos><user>prove0\n<assistant>intro\n"] * 2
    assert [text(sequence.completion_ids) for sequence in second] == ["simp\n", "omega\n"], "no end of the answer"


def test_searches_without_a_solution_are_counted_and_a_file_of_them_is_refused(
    preference_config: Any, write_rows: Any
) -> None:
    unsolved = [{"prompt": "prove it", "nodes": [{"id": 1, "parent": None, "text": "ring\n", "error": "no"}]}]
    pairing = {"pairing": {"searchTree": {}}}
    some = check_inputs(preference_config({"stepDpo": {}}, write_rows(TREES + unsolved), data=pairing))
    assert any("1 of 7 rows" in warning for warning in some.warnings)
    with pytest.raises(DataError, match="no row is left"):
        check_inputs(preference_config({"stepDpo": {}}, write_rows(unsolved), data=pairing))


def test_pairs_without_scores_are_refused_where_scores_are_needed(preference_config: Any, write_rows: Any) -> None:
    with pytest.raises(ValidationError, match="searchTree must not be set: its pairs have no scores"):
        preference_config({"advantageDpo": {}}, write_rows(TREES), data={"pairing": {"searchTree": {}}})
