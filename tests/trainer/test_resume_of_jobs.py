"""The real tasks: a preference job and an RLVR job that are stopped and killed end like ones that were left alone."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plumbline_trainer.tasks.build import build_task
from tests.trainer.toy_program import Child

STEPS = 6

PAIRS = [
    {"prompt": f"{a}+{b}=?", "chosen": str(a + b), "rejected": str(a + b + 1 + a % 3)}
    for a in range(5)
    for b in range(4)
]
PROBLEMS = [{"prompt": f"{a}+{b}=?", "answer": str(a + b)} for a in range(5) for b in range(4)]

PREFERENCE: dict[str, Any] = {
    "kind": "PreferenceJob",
    "spec": {
        "objective": {"dpo": {"beta": 0.5}},
        "peft": {"lora": {"rank": 4, "dropout": 0.1}},
        "optimizer": {"adamw": {"learningRate": 0.005}},
        "schedule": {"linear": {"warmupFraction": 0.2}},
        "training": {
            "steps": STEPS, "batchSize": 8, "microBatchSize": 3, "maxPromptTokens": 32, "maxCompletionTokens": 8,
        },
    },
}  # fmt: skip
RLVR: dict[str, Any] = {
    "kind": "RLVRJob",
    "spec": {
        "objective": {"grpo": {}},
        "kl": {"loss": {"coefficient": 0.01}},
        "optimizer": {"adamw": {"learningRate": 0.01}},
        "training": {"steps": STEPS, "batchSize": 16, "maxPromptTokens": 32, "maxCompletionTokens": 6},
        "rollout": {"groupSize": 4, "updatesPerRollout": 2},
        "rewards": [{"name": "digits", "verifier": {"regex": {"pattern": "[0-9]", "mode": "search"}}}],
    },
}


def manifest(job: dict[str, Any], folder: Path, model: Path) -> Path:
    """A job manifest with local paths in `folder`."""
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in (PAIRS if job is PREFERENCE else PROBLEMS)))
    source = {"source": {"path": {"path": str(rows)}}}
    document = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": job["kind"],
        "metadata": {"name": "resumed"},
        "spec": {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(model)}}, "dtype": "float32"},
            "data": {"train": source, "evaluation": {**source, "maxRows": 6}},
            "checkpoint": {"everySteps": 1},
            "output": {"path": str(folder / "model")},
            **job["spec"],
        },
    }
    path = folder / "job.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("job", [PREFERENCE, RLVR], ids=["preference", "rlvr"])
def test_an_interrupted_job_ends_like_one_that_was_left_alone(
    job: dict[str, Any], tmp_path: Path, llama_directory: Path
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    first_stop, kill = sorted(random.Random(seed).sample(range(1, STEPS - 1), 2))

    alone = Child(manifest(job, tmp_path / "alone", llama_directory), build=build_task)
    assert alone.wait() == 0, alone.log.read_text()

    config = manifest(job, tmp_path / "interrupted", llama_directory)
    losses: dict[int, float] = {}
    codes = []
    for step, number in ((first_stop, signal.SIGTERM), (kill, signal.SIGKILL)):
        child = Child(config, build=build_task)
        child.wait_for("step", step)
        child.send(number)
        codes.append(child.wait())
        losses.update(child.losses())
    assert codes[0] in (85, 0), child.log.read_text()
    assert any(codes), "every signal came too late to interrupt anything"
    last = Child(config, build=build_task)
    assert last.wait() == 0, last.log.read_text()
    losses.update(last.losses())

    assert losses == alone.losses()
    assert sorted(losses) == list(range(1, STEPS + 1))
    expected = load_file(tmp_path / "alone" / "model" / "model.safetensors")
    found = load_file(tmp_path / "interrupted" / "model" / "model.safetensors")
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert last.last_words()["score"] == alone.last_words()["score"]
    assert last.last_words()["output"]["digest"] != "", last.last_words()
