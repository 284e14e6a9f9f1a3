"""What guardrails do to a run: warn, suspend, fail, go back to a healthy checkpoint, exactly and through crashes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plumbline_api.contract import TerminationMessage
from tests.trainer.toy_program import Child, make_config, make_model

STEPS = 9
SPIKE = {"TOY_FAULTS": '{"spike_at": 4}'}
"""The fifth step has a thousandfold gradient, in the first order only."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("toy") / "base")


def config_in(folder: Path, model: Path, *guardrails: dict[str, Any], keep: int = 2, **spec: Any) -> Path:
    return make_config(
        folder,
        model,
        guardrails=list(guardrails),
        training={"steps": STEPS, "batchSize": 8, "microBatchSize": 4, "seed": 7},
        checkpoint={"everySteps": 1, "everySeconds": 0, "keep": keep},
        **spec,
    )


def norm(action: str, **more: Any) -> dict[str, Any]:
    return {"signal": "gradientNorm", "bound": 50, "windowSteps": 2, "action": action, **more}


def finished(config: Path, **variables: str) -> Child:
    child = Child(config, **variables)
    assert child.wait() == 0, child.log.read_text()
    return child


def words(child: Child) -> TerminationMessage:
    return TerminationMessage.model_validate(child.last_words())


def events(child: Child, name: str) -> list[dict[str, Any]]:
    return [line for line in child.lines() if line["event"] == name]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    expected, found = weights(one), weights(other)
    return expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def steps_of(child: Child) -> list[int]:
    return [line["step"] for line in events(child, "step")]


def test_a_warning_changes_nothing_but_what_is_said(model: Path, tmp_path: Path) -> None:
    warned = finished(config_in(tmp_path / "warned", model, norm("Warn")), **SPIKE)
    finished(config_in(tmp_path / "ignored", model, {"signal": "gradientGrowth", "action": "Ignore"}), **SPIKE)
    assert same(tmp_path / "warned", tmp_path / "ignored")
    [told] = [line for line in events(warned, "unhealthy") if line["signal"] == "gradientNorm"]
    assert "above the bound 50" in told["message"]


def test_a_failing_guardrail_ends_the_run_and_leaves_the_checkpoints(model: Path, tmp_path: Path) -> None:
    child = Child(config_in(tmp_path, model, norm("Fail")), **SPIKE)
    assert child.wait() == 72
    said = words(child)
    assert (said.reason, said.step) == ("GuardrailFailed", 5)
    assert said.message.startswith("guardrail gradientNorm: the mean norm of the gradient before clipping is ")
    assert said.health is not None
    assert [(one.signal, one.broken_since) for one in said.health.signals if one.action == "Fail"] == [
        ("gradientNorm", 5)
    ]
    assert said.checkpoint is not None
    assert (said.checkpoint.step, said.checkpoint.healthy) == (4, True)


def test_a_suspending_guardrail_saves_and_the_run_goes_on_when_it_is_resumed(model: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path / "suspended", model, norm("Suspend"))
    child = Child(config, **SPIKE)
    assert child.wait() == 85
    said = words(child)
    assert (said.reason, said.step) == ("SuspendedByGuardrail", 5)
    assert said.checkpoint is not None
    assert said.checkpoint.step == 5
    resumed = finished(config, **SPIKE)
    assert steps_of(resumed) == [6, 7, 8, 9]
    finished(config_in(tmp_path / "alone", model), **SPIKE)
    assert same(tmp_path / "suspended", tmp_path / "alone")


ROLLBACK = norm("Rollback", rollback={"limit": 1, "learningRateFactor": 0.5, "newOrder": True})


@pytest.fixture(scope="module")
def rolled_back(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Child]:
    """A run that goes back from its fifth step to its third, and what it said."""
    folder = tmp_path_factory.mktemp("rolled-back")
    return folder, finished(config_in(folder, model, ROLLBACK), **SPIKE)


@pytest.fixture(scope="module")
def first_order(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of the same run without guardrails, all of them."""
    folder = tmp_path_factory.mktemp("first-order")
    finished(config_in(folder, model, keep=STEPS), **SPIKE)
    return folder / "checkpoints"


def test_a_rollback_goes_back_before_the_window_and_on_in_another_way(rolled_back: tuple[Path, Child]) -> None:
    folder, child = rolled_back
    assert steps_of(child) == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9]
    steps = events(child, "step")
    assert steps[5]["learning_rate"] == pytest.approx(steps[3]["learning_rate"] / 2)
    assert steps[5]["loss"] != steps[3]["loss"], "other rows"
    [journal] = json.loads((folder / "checkpoints" / "rollbacks.json").read_bytes())
    assert {name: journal[name] for name in ("number", "signal", "from_step", "to_step", "done")} == {
        "number": 1, "signal": "gradientNorm", "from_step": 5, "to_step": 3, "done": True,
    }  # fmt: skip
    said = words(child)
    assert said.reason == "Completed"
    assert said.health is not None
    assert said.health.rollbacks == 1
    assert said.health.last_rollback is not None
    assert (said.health.last_rollback.from_step, said.health.last_rollback.to_step) == (5, 3)
    [warning] = events(child, "warning")
    assert (
        "rollback 1: the run goes on from step 3 in another order and with the learning rate times 0.5"
        in warning["message"]
    )


def test_a_run_that_begins_at_the_healthy_checkpoint_ends_the_same(
    rolled_back: tuple[Path, Child], first_order: Path, model: Path, tmp_path: Path
) -> None:
    folder, _ = rolled_back
    config = config_in(tmp_path, model, ROLLBACK)
    shutil.copytree(first_order / "step-00000003", tmp_path / "checkpoints" / "step-00000003")
    shutil.copy(folder / "checkpoints" / "rollbacks.json", tmp_path / "checkpoints")
    assert steps_of(finished(config, **SPIKE)) == [4, 5, 6, 7, 8, 9]
    assert same(folder, tmp_path)


@pytest.mark.parametrize("deleted", [(), (5,), (4, 5), (4,)])
def test_a_rollback_that_was_interrupted_is_finished_by_the_next_start(
    deleted: tuple[int, ...], rolled_back: tuple[Path, Child], first_order: Path, model: Path, tmp_path: Path
) -> None:
    """It is written down, and of the checkpoints that it gives up only some are deleted."""
    folder, _ = rolled_back
    config = config_in(tmp_path, model, ROLLBACK)
    for step in {2, 3, 4, 5} - set(deleted):
        shutil.copytree(first_order / f"step-{step:08d}", tmp_path / "checkpoints" / f"step-{step:08d}")
    journal = json.loads((folder / "checkpoints" / "rollbacks.json").read_bytes())
    (tmp_path / "checkpoints" / "rollbacks.json").write_text(json.dumps([{**journal[0], "done": False}]))
    assert steps_of(finished(config, **SPIKE)) == [4, 5, 6, 7, 8, 9]
    assert same(folder, tmp_path)


def test_a_kill_after_the_rollback_loses_nothing_of_it(
    rolled_back: tuple[Path, Child], model: Path, tmp_path: Path
) -> None:
    folder, _ = rolled_back
    config = config_in(tmp_path, model, ROLLBACK)
    child = Child(config, **SPIKE)
    child.wait_for("warning")
    child.wait_for("step", 6)
    child.send(signal.SIGKILL)
    child.wait()
    finished(config, **SPIKE)
    assert same(folder, tmp_path)


def test_without_a_healthy_checkpoint_the_run_starts_over(model: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path, model, {**ROLLBACK, "windowSteps": 5})
    child = finished(config, **SPIKE)
    assert steps_of(child) == [1, 2, 3, 4, 5, *range(1, STEPS + 1)]
    assert words(child).health.last_rollback.to_step == 0  # type: ignore[union-attr]


def test_rollbacks_are_bounded(model: Path, tmp_path: Path) -> None:
    guardrail = {"signal": "notFinite", "action": "Rollback", "rollback": {"limit": 2, "newOrder": True}}
    child = Child(config_in(tmp_path, model, guardrail), TOY_FAULTS='{"nan_at": 4}')
    assert child.wait() == 72
    assert steps_of(child) == [1, 2, 3, 4]
    said = words(child)
    assert said.reason == "GuardrailFailed"
    assert said.message.endswith(
        "the loss is nan; nothing was updated; the run was rolled back 2 times for this already"
    )
    assert said.health is not None
    assert said.health.rollbacks == 2
    assert all(tensor.isfinite().all() for tensor in load_file(
        tmp_path / "checkpoints" / "step-00000004" / "parameters.safetensors"
    ).values())  # fmt: skip


def test_all_ranks_go_back_together(rolled_back: tuple[Path, Child], model: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path, model, ROLLBACK)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **SPIKE}
    ranks = [Child(config, rank=rank, **variables) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].log.read_text() + ranks[1].log.read_text()
    assert steps_of(ranks[0]) == steps_of(rolled_back[1])


def test_the_time_of_the_attempt_adds_up(rolled_back: tuple[Path, Child]) -> None:
    _, child = rolled_back
    measured = words(child).time
    assert measured is not None
    assert measured.useful is not None
    assert 0 < measured.useful < measured.working, "the steps that were given up are not behind the model"
    lines = child.lines()
    first, last = lines[0]["time"], lines[-1]["time"]
    passed = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    total = measured.starting + measured.working + measured.checkpointing + measured.stopping
    assert total == pytest.approx(passed, abs=0.3)
