"""A preference job on two ranks: the losses and the model of one, also where a step's loss needs all of its rows."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plumbline_trainer.tasks.build import build_task
from tests.trainer.toy_program import Child

ROWS = [
    {"prompt": f"{a}+{b}=?", "completion": str(a + b) * (1 + a % 3), "label": (a + b) % 3 > 0}
    for a in range(5)
    for b in range(2)
]


def manifest(folder: Path, model: Path, write_rows: Any) -> Path:
    """Ten rows in batches of four: the last step of an epoch has two, and each rank its share of an odd micro-batch."""
    source = {"source": {"path": {"path": write_rows(ROWS)}}}
    document = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "PreferenceJob",
        "metadata": {"name": "ranks"},
        "spec": {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(model)}}, "dtype": "float32"},
            "data": {"train": source, "evaluation": source},
            "objective": {"kto": {"beta": 0.5, "undesirableWeight": 1.5}},
            "optimizer": {"adamw": {"learningRate": 0.003}},
            "training": {"epochs": 2, "batchSize": 4, "maxPromptTokens": 32, "maxCompletionTokens": 8},
            "output": {"path": str(folder / "model")},
        },
    }
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(document))
    return folder / "job.json"


def test_two_ranks_reach_the_losses_and_the_model_of_one(
    llama_directory: Path, tmp_path: Path, write_rows: Any
) -> None:
    single = Child(manifest(tmp_path / "one", llama_directory, write_rows), build=build_task)
    assert single.wait() == 0, single.log.read_text()
    config = manifest(tmp_path / "two", llama_directory, write_rows)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [Child(config, rank, build=build_task, LOCAL_RANK=str(rank), **address) for rank in range(2)]
    assert [child.wait() for child in ranks] == [0, 0], ranks[1].log.read_text()

    assert len(single.losses()) == 6
    assert ranks[0].losses() == pytest.approx(single.losses(), rel=1e-4)
    expected = load_file(tmp_path / "one" / "model" / "model.safetensors")
    found = load_file(tmp_path / "two" / "model" / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-3)
    score = single.last_words()["score"]
    assert score["name"].endswith("rewards/accuracy")
    assert ranks[0].last_words()["score"] == score
