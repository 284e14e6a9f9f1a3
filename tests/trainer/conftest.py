"""A small Llama with its own tokenizer, written once a session, and configurations that use it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.stopping import StopRequest
from tests.trainer.rlvr_jobs import write_model

SPECIAL = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>"]
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% if message.role == 'assistant' %}<eos>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

WriteRows = Callable[..., str]
MakeConfig = Callable[..., TrainerConfig]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `rlvr_jobs`, written once a module; a module that trains another one has a fixture of this name."""
    directory = tmp_path_factory.mktemp("model")
    write_model(directory)
    return directory


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, special tokens of its own, and a chat template that ends turns with <eos>."""
    characters = list("abcdefghijklmnopqrstuvwxyz0123456789 +-=?.\n")
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *characters])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="?")),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=["<user>", "<assistant>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def llama_directory(chat_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights that depend on nothing, and `chat_tokenizer`."""
    directory = tmp_path_factory.mktemp("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(chat_tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.2,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    model.save_pretrained(directory)
    chat_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    volume = tmp_path / "volume"
    volume.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", volume], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not possible here: {mounted.stderr.strip()}")
    yield volume
    subprocess.run(["umount", volume], check=True)


@pytest.fixture
def alone() -> Ranks:
    """A run of one process on the CPU."""
    return Ranks(StopRequest(), torch.device("cpu"))


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """`write_rows(rows, name="train.jsonl") -> path` of a JSONL file."""

    def write(rows: list[dict[str, Any]], name: str = "train.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def preference_config(llama_directory: Path, tmp_path: Path) -> MakeConfig:
    """`preference_config(objective, train, held_out=None, training={}, **spec)`: a job on the small Llama."""

    def make(
        objective: dict[str, Any],
        train: str,
        held_out: str | None = None,
        *,
        model: str | None = None,
        reference: str | None = None,
        training: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        **spec: Any,
    ) -> TrainerConfig:
        source = {"source": {"path": {"path": model or str(llama_directory)}}}
        document: dict[str, Any] = {
            "runtimeRef": {"name": "local"},
            "model": source,
            "data": {"train": {"source": {"path": {"path": train}}}, **(data or {})},
            "objective": objective,
            "training": {"steps": 3, "batchSize": 4, "maxPromptTokens": 32, "maxCompletionTokens": 16}
            | (training or {}),
            "output": {"path": str(tmp_path / "output")},
            **spec,
        }
        if held_out is not None:
            document["data"]["evaluation"] = {"source": {"path": {"path": held_out}}}
        if reference is not None:
            document["reference"] = {"source": {"path": {"path": reference}}}
        paths = {
            "model": model or str(llama_directory),
            "reference": reference,
            "train": train,
            "evaluation": held_out,
            "checkpoints": str(tmp_path / "checkpoints"),
            "output": str(tmp_path / "output"),
        }
        return TrainerConfig.model_validate(
            {"kind": "PreferenceJob", "name": "test", "preference": document, "paths": paths}
        )

    return make
