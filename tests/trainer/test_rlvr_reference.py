"""The reference of an RLVR job: frozen, or following the policy."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from plumbline_operator.volumes import Mounts, resolve_paths
from plumbline_trainer.configuration import local_paths
from plumbline_trainer.failures import ModelError
from plumbline_trainer.tasks.rlvr_data import spec_of
from tests.trainer.rlvr_jobs import llama, write_job, write_words
from tests.trainer.test_rlvr_methods import Run, kept_pools  # noqa: F401  (a fixture of every test here)


def divergences(model: Path, folder: Path, steps: int, patch: dict[str, Any]) -> list[float]:
    """KL of the policy from its reference in the rollout of each step."""
    found = []
    folder.mkdir()
    with closing(Run(write_job(folder, model, {"kl": {"reward": {}}, **patch}, {"steps": steps}))) as run:
        for step in range(steps):
            run.optimizer.zero_grad()
            batch = run.task.prepare(step)
            found.append(batch.metrics["kl"].value)
            for micro_batch in batch.micro_batches:
                run.task.loss(micro_batch)[0].backward()
            run.optimizer.step()
            run.task.step_done(step)
    return found


@pytest.mark.parametrize("adapter", [{}, {"peft": {"lora": {"rank": 2}}}], ids=["whole", "adapter"])
def test_a_reference_that_becomes_the_policy_leaves_no_divergence(
    adapter: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    copied = {"reference": {"update": {"mix": 1, "everySteps": 2}}}
    frozen = divergences(model, tmp_path / "frozen", 3, adapter)
    followed = divergences(model, tmp_path / "copied", 3, {**adapter, **copied})
    assert frozen[0] == pytest.approx(0, abs=1e-6)
    assert followed[:2] == pytest.approx(frozen[:2], abs=1e-7), "until it follows, it is the model at the start"
    assert min(abs(frozen[1]), abs(frozen[2])) > 1e-4
    assert followed[2] == pytest.approx(0, abs=1e-6)


def test_a_reference_of_another_shape_cannot_follow(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    configuration = llama(write_words(other))
    configuration.intermediate_size = 48
    torch.manual_seed(0)
    LlamaForCausalLM(configuration).save_pretrained(other)
    patch = {"kl": {"loss": {}}, "reference": {"source": {"path": {"path": str(other)}}, "update": {}}}
    config = write_job(tmp_path, model, patch, {"steps": 1})
    config.paths.reference = str(other)
    with pytest.raises(ModelError, match="cannot follow the trained model: it has another"):
        Run(config)


def test_one_that_follows_the_start_of_the_job_has_no_directory(model: Path, tmp_path: Path) -> None:
    patch = {"kl": {"loss": {}}, "reference": {"update": {}}}
    spec = spec_of(write_job(tmp_path, model, patch, {"steps": 1}))
    assert local_paths(spec).reference is None
    output = {"volume": {"claimName": "results"}}
    in_cluster = spec.model_validate({**spec.to_document(), "output": output})
    assert resolve_paths(in_cluster, "job", Mounts()).reference is None
