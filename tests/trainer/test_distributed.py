"""Two ranks on loopback: one run, whatever its split, that stops and fails together."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.toy_program import Child, make_config, make_model

STEPS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # dropout depends on the split by its nature; everything else must not
    return make_model(tmp_path_factory.mktemp("toy") / "base", dropout=0.0)


def config_in(folder: Path, model: Path, steps: int = STEPS, **spec: Any) -> Path:
    return make_config(folder, model, training={"steps": steps, "batchSize": 8, "microBatchSize": 3}, **spec)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(config: Path, of_rank_1: dict[str, str] | None = None, **variables: str) -> list[Child]:
    """Two ranks with these environment variables, of which some are for rank 1 alone."""
    everywhere = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", **variables}
    own = [{}, of_rank_1 or {}]
    return [Child(config, rank, LOCAL_RANK=str(rank), **everywhere, **own[rank]) for rank in range(2)]


def test_two_ranks_reach_the_weights_of_one(model: Path, tmp_path: Path) -> None:
    single = Child(config_in(tmp_path / "one", model))
    assert single.wait() == 0, single.log.read_text()
    ranks = start(config_in(tmp_path / "two", model))
    assert [child.wait() for child in ranks] == [0, 0], ranks[1].log.read_text()

    assert ranks[0].losses() == pytest.approx(single.losses(), rel=1e-5)
    expected = load_file(tmp_path / "one" / "model" / "model.safetensors")
    found = load_file(tmp_path / "two" / "model" / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
    assert ranks[1].losses() == {}, "only rank 0 speaks"
    tokens = [[line["tokens"] for line in child.lines() if line["event"] == "step"] for child in (ranks[0], single)]
    assert tokens[0] == tokens[1], "tokens are counted over all ranks"


def test_a_signal_to_one_rank_stops_both_at_the_same_step_and_saves_once(model: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path, model, steps=2000, checkpoint={"everySeconds": 0})
    ranks = start(config)
    ranks[0].wait_for("step", 3)
    ranks[1].send(signal.SIGTERM)
    assert [child.wait() for child in ranks] == [85, 85], ranks[0].log.read_text()
    steps = {child.last_words()["step"] for child in ranks}
    assert len(steps) == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{steps.pop():08d}"]


def test_stopped_ranks_resume_to_the_same_weights(model: Path, tmp_path: Path) -> None:
    undisturbed = start(config_in(tmp_path / "undisturbed", model, steps=8))
    assert [child.wait() for child in undisturbed] == [0, 0]
    config = config_in(tmp_path / "stopped", model, steps=8)
    ranks = start(config)
    ranks[0].wait_for("step", 2)
    ranks[0].send(signal.SIGTERM)
    codes = [child.wait() for child in ranks]
    assert codes in ([85, 85], [0, 0])
    again = start(config)
    assert [child.wait() for child in again] == [0, 0], again[0].log.read_text()
    expected = load_file(tmp_path / "undisturbed" / "model" / "model.safetensors")
    found = load_file(tmp_path / "stopped" / "model" / "model.safetensors")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_peer_that_does_not_come_to_a_collective_is_waited_for_so_long_and_no_longer(
    model: Path, tmp_path: Path
) -> None:
    ranks = start(config_in(tmp_path, model, steps=100000), COLLECTIVE_TIMEOUT_SECONDS="8")
    ranks[0].wait_for("step", 2)
    ranks[1].send(signal.SIGSTOP)
    assert ranks[0].wait() == 75
    words = ranks[0].last_words()
    assert words["reason"] == "CollectiveTimeout"
    assert "waited too long for the other ranks" in words["message"]
    ranks[1].send(signal.SIGKILL)
    ranks[1].wait()


def test_a_lost_peer_is_told_as_such(model: Path, tmp_path: Path) -> None:
    ranks = start(config_in(tmp_path, model, steps=2000, checkpoint={"everySteps": 1}))
    ranks[0].wait_for("step", 2)
    ranks[1].send(signal.SIGKILL)
    assert ranks[1].wait() == -signal.SIGKILL
    assert ranks[0].wait() == 75
    words = ranks[0].last_words()
    assert words["reason"] == "LostPeer"
    assert "lost contact with the other ranks" in words["message"]
    assert words["checkpoint"]["step"] >= 1


def test_a_stop_of_one_rank_after_an_update_waits_until_both_tasks_have_followed_it(
    model: Path, tmp_path: Path
) -> None:
    """The signal comes on one rank only, between the update and a collective of the task that follows it."""
    undisturbed = start(config_in(tmp_path / "undisturbed", model))
    assert [child.wait() for child in undisturbed] == [0, 0]
    config = config_in(tmp_path / "stopped", model)
    fault = {"TOY_FAULTS": '{"stop_in_step_done": 1}'}
    ranks = start(config, of_rank_1=fault)
    assert [child.wait() for child in ranks] == [85, 85], ranks[0].log.read_text()
    assert {child.last_words()["step"] for child in ranks} == {2}
    again = start(config)
    assert [child.wait() for child in again] == [0, 0], again[0].log.read_text()
    for name in ("parameters", "task"):
        expected, found = (
            load_file(tmp_path / run / "checkpoints" / f"step-{STEPS:08d}" / f"{name}.safetensors")
            for run in ("undisturbed", "stopped")
        )
        assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def test_two_ranks_agree_on_the_best_checkpoint_and_rank_0_exports_it(model: Path, tmp_path: Path) -> None:
    best = {"metric": "nll", "mode": "min", "export": True}
    config = config_in(
        tmp_path,
        model,
        evaluation={"everySteps": 1},
        checkpoint={"everySeconds": 0, "keep": 1, "best": best},
    )
    ranks = start(config, TOY_FAULTS='{"worse_after": 2}')
    assert [child.wait() for child in ranks] == [0, 0], ranks[0].log.read_text()
    assert [child.last_words()["bestCheckpoint"]["step"] for child in ranks] == [2, 2]
    parameters = load_file(tmp_path / "checkpoints" / "step-00000002" / "parameters.safetensors")
    exported = load_file(tmp_path / "model" / "model.safetensors")
    assert [name for name in exported if not torch.equal(exported[name], parameters[name])] == []


def test_incomplete_variables_are_a_configuration_error(model: Path, tmp_path: Path) -> None:
    child = Child(config_in(tmp_path, model), WORLD_SIZE="2")
    assert child.wait() == 64
    assert "MASTER_PORT must be a number" in child.last_words()["message"]
