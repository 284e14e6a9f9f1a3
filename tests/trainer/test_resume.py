"""An interrupted run ends with the same losses and the same weights, bit for bit, as one that was left alone."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.toy_program import Child, make_config, make_model

STEPS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("toy") / "base")


def config_in(folder: Path, model: Path, **training: object) -> Path:
    return make_config(
        folder, model, training={"steps": STEPS, "batchSize": 8, "microBatchSize": 4, "seed": 7, **training}
    )


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def optimizer_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.safetensors")


def score_in(folder: Path) -> float:
    return json.loads((folder / "termination-log-0").read_bytes())["score"]["value"]


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    child = Child(config_in(folder, model))
    assert child.wait() == 0
    losses = child.losses()
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1]
    return folder, losses


def test_two_undisturbed_runs_are_the_same(
    model: Path, tmp_path: Path, undisturbed: tuple[Path, dict[int, float]]
) -> None:
    child = Child(config_in(tmp_path, model))
    assert child.wait() == 0
    assert child.losses() == undisturbed[1]
    assert_same_bits(weights_in(tmp_path), weights_in(undisturbed[0]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_interruptions_at_random_steps_change_nothing(
    number: signal.Signals, model: Path, tmp_path: Path, undisturbed: tuple[Path, dict[int, float]]
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    steps = sorted(random.Random(seed).sample(range(1, STEPS - 1), 3))
    folder, expected = undisturbed
    config = config_in(tmp_path, model)
    losses: dict[int, float] = {}
    codes = []
    for step in steps:
        child = Child(config)
        child.wait_for("step", step)
        child.send(number)
        codes.append(child.wait())
        assert codes[-1] in (85 if number == signal.SIGTERM else -signal.SIGKILL, 0), child.log.read_text()
        losses.update(child.losses())
    assert any(codes), "every signal came too late to interrupt anything"
    last = Child(config)
    assert last.wait() == 0, last.log.read_text()
    losses.update(last.losses())

    assert losses == expected
    assert_same_bits(weights_in(tmp_path), weights_in(folder))
    assert_same_bits(optimizer_in(tmp_path), optimizer_in(folder))
    assert last.last_words()["score"]["value"] == score_in(folder)


def test_a_stop_between_update_and_task_waits_for_the_task(
    model: Path, tmp_path: Path, undisturbed: tuple[Path, dict[int, float]]
) -> None:
    """The task takes part in a collective after the update; a stop that is pending there must not tear them apart."""
    config = config_in(tmp_path, model)
    child = Child(config, TOY_FAULTS='{"stop_in_step_done": 4}')
    assert child.wait() == 85
    assert child.last_words()["step"] == 5
    saved = tmp_path / "checkpoints" / "step-00000005"
    average = load_file(saved / "task.safetensors")
    parameters = load_file(saved / "parameters.safetensors")
    assert average.keys() == parameters.keys()
    assert any(not torch.equal(average[name], parameters[name]) for name in average)
    last = Child(config)
    assert last.wait() == 0
    assert {**child.losses(), **last.losses()} == undisturbed[1]
    assert_same_bits(weights_in(tmp_path), weights_in(undisturbed[0]))


def test_sixteen_bit_models_resume_exactly_too(model: Path, tmp_path: Path) -> None:
    """Their 32-bit copies are what is saved: rounding to 16 bits in between would show."""
    results = []
    for name, interrupt in (("left-alone", False), ("stopped", True)):
        folder = tmp_path / name
        source = {"path": {"path": str(model)}}
        config = make_config(
            folder,
            model,
            model={"source": source, "dtype": "bfloat16"},
            training={"steps": STEPS, "batchSize": 8, "seed": 7},
        )
        if interrupt:
            child = Child(config)
            child.wait_for("step", 5)
            child.send(signal.SIGTERM)
            assert child.wait() in (85, 0)
        assert Child(config).wait() == 0
        results.append(load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / "parameters.safetensors"))
    assert all(tensor.dtype == torch.float32 for tensor in results[0].values())
    assert_same_bits(*results)


def test_the_loss_does_not_depend_on_micro_batches(model: Path, tmp_path: Path) -> None:
    whole = make_model(tmp_path / "without-dropout", dropout=0.0)
    losses = []
    for size in (8, 3, 1):
        child = Child(config_in(tmp_path / str(size), whole, microBatchSize=size))
        assert child.wait() == 0
        losses.append(child.losses())
    for step in range(1, STEPS + 1):
        assert losses[0][step] == pytest.approx(losses[1][step], abs=2e-5)
        assert losses[0][step] == pytest.approx(losses[2][step], abs=2e-5)
