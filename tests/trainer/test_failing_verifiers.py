"""How many verifier calls of a step may fail does not depend on what they are for, nor on how prompts lie on ranks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import RewardFunctionError
from plumbline_trainer.rollout.experience import Experience
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.rlvr import RLVRTask, build
from tests.trainer.rlvr_jobs import END, write_job
from tests.trainer.rlvr_rank import start_rank

Write = Callable[..., TrainerConfig]
Open = Callable[[TrainerConfig], RLVRTask]

FIRST_PROMPT_FAILS = """
def verify(prompt, completion, answer, row):
    if prompt == "a b":
        raise RuntimeError("cannot judge this one")
    return len(completion) % 3
"""
FIRST_SOLUTION_FAILS = """
def verify(prompt, completion, answer, row):
    if prompt == "a b" and completion == row["solution"]:
        raise RuntimeError("cannot judge this one")
    return 0.0
"""
FIRST_PROMPT_IS_WRONG = """
def verify(prompt, completion, answer, row):
    return 0.0 if prompt == "a b" else 1.0
"""
SOME_WORDS_FAIL = """
def verify(prompt, completion, answer, row):
    if completion.endswith(tuple("abcd")):
        raise RuntimeError("cannot judge this one")
    return 0.0
"""
KEPT = {"entropy": {"bonus": {"coefficient": 0.01}}}
"""Completions without advantage are learnt from as well, so that a test sees them."""


@pytest.fixture
def config(tmp_path: Path, model: Path) -> Write:
    """Jobs whose reward is a function, on six prompts with four samples each."""

    def write(source: str, patch: dict[str, Any], **reward: Any) -> TrainerConfig:
        code = tmp_path / "reward.py"
        code.write_text(source, encoding="utf-8")
        rewards = [{"name": "code", "verifier": {"python": {"path": str(code)}}, **reward}]
        limits = {"steps": 4, "batchSize": 24, "maxCompletionTokens": 2}
        written = write_job(tmp_path, model, {"rewards": rewards, **patch}, limits)
        return written.model_copy(update={"paths": written.paths.model_copy(update={"rewards": {"code": str(code)}})})

    return write


@pytest.fixture
def open_task() -> Iterator[Open]:
    opened: list[RLVRTask] = []

    def open_one(config: TrainerConfig) -> RLVRTask:
        stop = StopRequest()
        opened.append(build(config, Ranks(stop, torch.device("cpu")), stop))
        return opened[-1]

    yield open_one
    for task in opened:
        task.close()


def learnt(task: RLVRTask) -> list[Experience]:
    """The completions of the first step."""
    return [one for micro_batch in task.prepare(0).micro_batches for one in micro_batch.experiences]


def test_a_solution_that_cannot_be_judged_is_one_failed_call_of_the_step_and_takes_no_place(
    config: Write, open_task: Open
) -> None:
    gold = {"exploration.rescue": {"gold": {}}, **KEPT}
    task = open_task(config(FIRST_SOLUTION_FAILS, gold))
    found = learnt(task)
    assert len(found) == 24 and all(one.advantages.isfinite().all() for one in found)
    solved = {one.row for one in found if (one.advantages > 0).all()}
    assert solved == {1, 2, 3, 4, 5}
    first = [one for one in found if one.row == 0]
    assert len(first) == 4 and all((one.advantages == 0).all() for one in first)


def test_more_failed_calls_than_a_step_may_have_end_the_run_whatever_they_were_for(
    config: Write, open_task: Open
) -> None:
    gold = {"exploration.rescue": {"gold": {}}}
    with pytest.raises(RewardFunctionError, match="reward code: 1 of the step's 30 calls failed"):
        learnt(open_task(config(FIRST_SOLUTION_FAILS, gold, maxErrorFraction=0.03)))


def test_a_solution_replaces_the_last_sample_that_could_be_judged(config: Write, open_task: Open) -> None:
    gold = {"exploration.rescue": {"gold": {}}, **KEPT}
    without = learnt(open_task(config(SOME_WORDS_FAIL, KEPT, maxErrorFraction=1.0)))
    rescued = learnt(open_task(config(SOME_WORDS_FAIL, gold, maxErrorFraction=1.0)))
    assert {one.sample for one in without if one.slot == 0} != {0, 1, 2, 3} or len(without) < 24
    judged = {(one.slot, one.sample) for one in without}
    assert {(one.slot, one.sample) for one in rescued} == judged
    last = {slot: max(sample for place, sample in judged if place == slot) for slot, _ in judged}
    assert set(last.values()) != {3}, "some last samples could not be judged"
    solutions = {one.slot: one.sample for one in rescued if one.reward == 1.0}
    assert solutions == last
    assert all(one.tokens[-1] == END for one in rescued if one.reward == 1.0)


@pytest.mark.parametrize("world_size", [1, 2])
def test_one_prompt_may_fail_on_however_many_ranks_the_prompts_lie(
    config: Write, tmp_path: Path, world_size: int
) -> None:
    """4 of 24 samples and 1 of 6 greedy completions fail: on the second rank of two it is 1 of 3."""
    job = config(FIRST_PROMPT_FAILS, {"advantage": {"remax": {}}}, maxErrorFraction=0.17)
    assert exit_codes(job, tmp_path, world_size) == [0] * world_size


def test_a_solution_may_be_wanted_on_one_rank_alone(config: Write, tmp_path: Path) -> None:
    job = config(FIRST_PROMPT_IS_WRONG, {"exploration.rescue": {"gold": {}}})
    assert exit_codes(job, tmp_path, 2) == [0, 0]


def exit_codes(job: TrainerConfig, folder: Path, world_size: int) -> list[int | None]:
    """Of ranks that make the first step."""
    (folder / "config.json").write_text(job.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
    processes = [start_rank(folder / "config.json", rank, **address) for rank in range(world_size)]
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]
