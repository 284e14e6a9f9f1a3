"""What the loop does around a step: evaluation, checkpoints, failures, stop requests, reports."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plumbline_api.contract import TerminationMessage
from tests.trainer.toy_program import Child, make_config, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("toy") / "base")


def training(**changes: Any) -> dict[str, Any]:
    return {"steps": 4, "batchSize": 8, "microBatchSize": 4, "seed": 7, **changes}


def run_to_the_end(config: Path, **variables: str) -> Child:
    child = Child(config, **variables)
    assert child.wait() == 0, child.log.read_text()
    return child


def events(child: Child, name: str) -> list[dict[str, Any]]:
    return [line for line in child.lines() if line["event"] == name]


def checkpoints_in(folder: Path) -> list[str]:
    directory = folder / "checkpoints"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def test_a_run_reports_every_step_its_evaluations_and_its_result(model: Path, tmp_path: Path) -> None:
    child = run_to_the_end(make_config(tmp_path, model, training=training(), evaluation={"everySteps": 2}))
    steps = events(child, "step")
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    always = {
        "loss",
        "gradient_norm",
        "learning_rate",
        "nll",
        "tokens",
        "seconds",
        "tokens_per_second",
        "padding_share",
    }
    assert all(always <= line.keys() for line in steps)
    # the toy says that it computes two positions for every token
    assert all(line["padding_share"] == 0.5 for line in steps)
    assert all(line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"], rel=0.01) for line in steps)
    assert [line["step"] for line in events(child, "evaluation")] == [0, 2, 4]
    words = TerminationMessage.model_validate(child.last_words())
    assert (words.reason, words.step, words.max_steps) == ("Completed", 4, 4)
    assert words.score is not None
    assert words.score.name == "evaluation/nll"
    assert words.score.first is not None
    assert words.score.value < words.score.first
    assert words.checkpoint is not None
    assert words.checkpoint.step == 4
    assert words.inputs is not None
    assert words.output is not None
    assert words.output.uri == str(tmp_path / "model")


def test_the_loss_is_the_mean_over_the_whole_step(model: Path, tmp_path: Path) -> None:
    """The toy's loss is the mean over tokens, which it also reports as a metric of its own."""
    child = run_to_the_end(make_config(tmp_path, model, training=training(microBatchSize=3)))
    for line in events(child, "step"):
        assert line["loss"] == pytest.approx(line["nll"], rel=1e-5)


def test_evaluation_at_the_start_can_be_left_out(model: Path, tmp_path: Path) -> None:
    child = run_to_the_end(make_config(tmp_path, model, training=training(), evaluation={"atStart": False}))
    assert [line["step"] for line in events(child, "evaluation")] == [4]


def test_checkpoints_come_by_steps_and_at_the_end(model: Path, tmp_path: Path) -> None:
    config = make_config(
        tmp_path, model, training=training(steps=5), checkpoint={"everySteps": 2, "everySeconds": 0, "keep": 9}
    )
    run_to_the_end(config)
    assert checkpoints_in(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]


def test_without_an_interval_there_is_one_checkpoint_at_the_end(model: Path, tmp_path: Path) -> None:
    run_to_the_end(make_config(tmp_path, model, training=training(), checkpoint={"everySeconds": 0}))
    assert checkpoints_in(tmp_path) == ["step-00000004"]


def best_run(**best: Any) -> dict[str, Any]:
    """Blocks of a run whose held-out loss falls until step 4 and rises after it, with `TOY_FAULTS=RISING`."""
    return {
        "training": training(steps=8),
        "evaluation": {"everySteps": 2},
        "checkpoint": {"everySeconds": 0, "keep": 1, "best": {"metric": "nll", "mode": "min", **best}},
    }


RISING = '{"worse_after": 4}'


def test_the_best_checkpoint_is_saved_after_its_evaluation_and_outlives_newer_ones(model: Path, tmp_path: Path) -> None:
    child = run_to_the_end(make_config(tmp_path, model, **best_run()), TOY_FAULTS=RISING)
    assert checkpoints_in(tmp_path) == ["step-00000004", "step-00000008"]
    assert [Path(line["uri"]).name for line in events(child, "checkpoint")] == [
        "step-00000002",
        "step-00000004",
        "step-00000008",
    ]
    values = {line["step"]: line["evaluation/nll"] for line in events(child, "evaluation")}
    best = child.last_words()["bestCheckpoint"]
    assert best == {
        "step": 4,
        "uri": str(tmp_path / "checkpoints" / "step-00000004"),
        "metric": "nll",
        "value": values[4],
    }
    assert values[4] == min(values.values())
    last = load_file(tmp_path / "checkpoints" / "step-00000008" / "parameters.safetensors")
    assert same_weights(tmp_path, last), "the last step's model is the result unless the best one is asked for"


def test_the_best_model_can_be_the_result(model: Path, tmp_path: Path) -> None:
    child = run_to_the_end(make_config(tmp_path, model, **best_run(export=True)), TOY_FAULTS=RISING)
    best = load_file(tmp_path / "checkpoints" / "step-00000004" / "parameters.safetensors")
    assert same_weights(tmp_path, best)
    assert "8 steps done; the model after step 4, the best one, is in" in child.last_words()["message"]
    assert json.loads((tmp_path / "model" / "plumbline.json").read_text())["step"] == 4
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"| {child.last_words()['bestCheckpoint']['value']:.6g} |" in card
    again = run_to_the_end(make_config(tmp_path, model, **best_run(export=True)), TOY_FAULTS=RISING)
    assert events(again, "step") == []
    assert again.last_words()["output"] == child.last_words()["output"]


def test_the_best_checkpoint_survives_interruptions(model: Path, tmp_path: Path) -> None:
    whole = run_to_the_end(make_config(tmp_path / "whole", model, **best_run()), TOY_FAULTS=RISING)
    config = make_config(tmp_path / "parts", model, **best_run())
    for fault in ('"raise_at": 3', '"raise_at": 6'):
        assert Child(config, TOY_FAULTS='{"worse_after": 4, ' + fault + "}").wait() == 70
    last = run_to_the_end(config, TOY_FAULTS=RISING)
    assert [line["step"] for line in events(last, "step")] == [5, 6, 7, 8], "the best one was the newest one"
    expected, found = whole.last_words()["bestCheckpoint"], last.last_words()["bestCheckpoint"]
    assert {**found, "uri": ""} == {**expected, "uri": ""}
    assert checkpoints_in(tmp_path / "parts") == ["step-00000004", "step-00000008"]


def test_a_best_checkpoint_by_an_unknown_metric_is_refused_at_the_first_evaluation(model: Path, tmp_path: Path) -> None:
    child = Child(make_config(tmp_path, model, **best_run(metric="rewards/accuracy")))
    assert child.wait() == 64
    message = child.last_words()["message"]
    assert message == ("checkpoint.best.metric 'rewards/accuracy' is no metric of the evaluation; these are: nll")
    assert events(child, "step") == []


def test_a_damaged_best_checkpoint_is_not_replaced_by_the_last_one_in_silence(model: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, model, **best_run(export=True))
    run_to_the_end(config, TOY_FAULTS=RISING)
    damaged = tmp_path / "checkpoints" / "step-00000004" / "parameters.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    child = Child(config, TOY_FAULTS=RISING)
    assert child.wait() == 74
    assert "step-00000004 cannot be used" in child.last_words()["message"]


def same_weights(folder: Path, parameters: dict[str, torch.Tensor]) -> bool:
    """Whether the exported model of a run has these parameters."""
    exported = load_file(folder / "model" / "model.safetensors")
    return exported.keys() <= parameters.keys() and all(
        torch.equal(tensor, parameters[name]) for name, tensor in exported.items()
    )


def test_a_run_that_is_done_only_exports_again(model: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, model, training=training())
    first = run_to_the_end(config)
    again = run_to_the_end(config)
    assert events(again, "step") == []
    assert events(again, "evaluation") == []
    assert again.last_words()["output"] == first.last_words()["output"]
    assert again.last_words()["score"] == first.last_words()["score"]


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing_over_the_last_good_step(
    model: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, model, training=training(), checkpoint={"everySteps": 1, "keep": 9})
    child = Child(config, TOY_FAULTS='{"nan_at": 2}')
    assert child.wait() == 72
    assert child.last_words()["reason"] == "Diverged"
    assert "step 3: the loss is nan" in child.last_words()["message"]
    assert checkpoints_in(tmp_path) == ["step-00000001", "step-00000002"]
    parameters = load_file(tmp_path / "checkpoints" / "step-00000002" / "parameters.safetensors")
    assert all(tensor.isfinite().all() for tensor in parameters.values())
    assert not list((tmp_path / "model").glob("*.safetensors"))


def test_an_unknown_error_is_a_trainer_bug_with_its_traceback_in_the_log(model: Path, tmp_path: Path) -> None:
    child = Child(make_config(tmp_path, model, training=training()), TOY_FAULTS='{"raise_at": 1}')
    assert child.wait() == 70
    words = child.last_words()
    assert words["reason"] == "TrainerBug"
    assert words["message"] == "unexpected RuntimeError: the toy broke"
    assert words["step"] == 1
    assert words["checkpoint"]["step"] == 1
    log = child.log.read_text()
    assert "Traceback (most recent call last)" in log
    assert "plumbline-trainer: TrainerBug: unexpected RuntimeError: the toy broke" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_last_completed_step(number: signal.Signals, model: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, model, training=training(steps=500), checkpoint={"everySeconds": 0})
    child = Child(config)
    child.wait_for("step", 3)
    child.send(number)
    child.send(number)
    assert child.wait() == 85
    words = child.last_words()
    assert words["reason"] == "StoppedSaved"
    assert words["message"] == f"stopped by {number.name}; step {words['step']} is saved"
    assert 3 <= words["step"] < 500
    assert checkpoints_in(tmp_path) == [f"step-{words['step']:08d}"]
    assert events(child, "step")[-1]["step"] == words["step"]
    assert not list((tmp_path / "model").glob("*.safetensors"))


def test_a_signal_during_evaluation_is_heard_and_the_evaluation_made_up_for(model: Path, tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        model,
        training=training(),
        evaluation={"atStart": False},
        checkpoint={"everySeconds": 0},
    )
    child = Child(config, TOY_FAULTS='{"stop_in_evaluation": true}')
    assert child.wait() == 85
    assert child.last_words()["step"] == 4
    again = run_to_the_end(config)
    assert [line["step"] for line in events(again, "evaluation")] == [4]
    assert events(again, "step") == []


def test_a_signal_before_the_first_step_loses_nothing(model: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, model, training=training())
    child = Child(config, TOY_FAULTS='{"stop_in_evaluation": true}')
    assert child.wait() == 85
    assert "before the first step was done" in child.last_words()["message"]
    assert checkpoints_in(tmp_path) == []


def test_a_stop_that_cannot_save_says_so(model: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, model, training=training(steps=500), checkpoint={"everySeconds": 0})
    child = Child(config)
    child.wait_for("step", 2)
    (tmp_path / "checkpoints").write_text("in the way")
    child.send(signal.SIGTERM)
    assert child.wait() == 86
    assert child.last_words()["reason"] == "StoppedNotSaved"
    assert "the checkpoint could not be saved" in child.last_words()["message"]


def test_a_damaged_newest_checkpoint_is_reported_and_the_run_goes_on_from_the_one_before(
    model: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, model, training=training(steps=6), checkpoint={"everySteps": 2, "keep": 3})
    child = Child(config, TOY_FAULTS='{"raise_at": 5}')
    assert child.wait() == 70
    damaged = tmp_path / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    again = run_to_the_end(config)
    assert [line["step"] for line in events(again, "step")] == [3, 4, 5, 6]
    assert "step-00000004 is damaged and was passed over" in events(again, "warning")[0]["message"]
    (told,) = again.last_words()["damagedCheckpoints"]
    assert "step-00000004 is damaged and was passed over: optimizer.safetensors has 100 bytes" in told
    assert again.last_words()["checkpoint"]["saveSeconds"] > 0
    assert again.last_words()["checkpoint"]["sizeBytes"] > 0


def test_damaged_checkpoints_only_are_not_started_over(model: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, model, training=training())
    run_to_the_end(config)
    for path in (tmp_path / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
    child = Child(config)
    assert child.wait() == 74
    assert child.last_words()["reason"] == "CheckpointUnreadable"


def test_a_checkpoint_of_another_run_is_refused_naming_the_fields(model: Path, tmp_path: Path) -> None:
    run_to_the_end(make_config(tmp_path, model, training=training()))
    child = Child(make_config(tmp_path, model, training=training(steps=9, seed=8)))
    assert child.wait() == 64
    message = child.last_words()["message"]
    assert "belongs to a different run" in message
    assert "spec.training.seed was 7 and is now 8" in message
    assert "spec.training.steps was 4 and is now 9" in message


def test_what_changes_no_number_may_differ_between_attempts(model: Path, tmp_path: Path) -> None:
    child = Child(make_config(tmp_path, model, training=training()), TOY_FAULTS='{"raise_at": 3}')
    assert child.wait() == 70
    config = make_config(
        tmp_path, model, training=training(), checkpoint={"everySteps": 2}, runPolicy={"backoffLimit": 9}
    )
    again = run_to_the_end(config, PLUMBLINE_ATTEMPT="2")
    assert [line["step"] for line in events(again, "step")] == [4]
