"""The memory that pre-flight expects is what a run takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from plumbline_trainer.configuration import load_config
from plumbline_trainer.memory import estimate
from plumbline_trainer.modeling.loading import load_configuration

SHAPES: dict[str, dict[str, Any]] = {
    "deep": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "vocab_size": 4000},
    "wide vocabulary": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 24000},
}


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path, llama_directory: Path) -> Path:
    """A random model of one of `SHAPES`, with the tokenizer of the small Llama."""
    directory = tmp_path / "model-under-test"
    configuration = Qwen2Config(
        **SHAPES[request.param], num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True
    )
    AutoModelForCausalLM.from_config(configuration).save_pretrained(directory)
    AutoTokenizer.from_pretrained(llama_directory).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("spec", [{}, {"peft": {"lora": {"rank": 8}}}], ids=["full", "lora"])
@pytest.mark.parametrize("model", SHAPES, indirect=True)
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(
    model: Path, spec: dict[str, Any], tmp_path: Path
) -> None:
    """Every row has exactly the lengths that the job allows, which is what the estimate is about."""
    lengths = {"maxPromptTokens": 200, "maxCompletionTokens": 200}
    rows = [
        {"prompt": "".join("0123456789"[(i + n) % 10] for n in range(200)), "chosen": "a" * 199, "rejected": "b" * 199}
        for i in range(4)
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    job = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "PreferenceJob",
        "metadata": {"name": "memory"},
        "spec": {
            "runtimeRef": {"name": "local"},
            "model": {
                "source": {"path": {"path": str(model)}},
                "chatTemplate": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
            },
            "data": {"train": {"source": {"path": {"path": str(data)}}}, "overlong": "truncate"},
            "objective": {"dpo": {}},
            "training": {"steps": 2, "batchSize": 4, **lengths},
            "output": {"path": str(tmp_path / "model")},
            **spec,
        },
    }
    manifest = tmp_path / "job.json"
    manifest.write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.memory_program", str(manifest)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = int(done.stderr.split()[-1])
    expected = estimate(load_configuration(model), load_config(manifest).spec, torch.float32, copies=1)
    assert expected.total == pytest.approx(measured, rel=0.25), (
        f"{expected.describe()}, measured {measured / 2**20:.0f}"
    )
