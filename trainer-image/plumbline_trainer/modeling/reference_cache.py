"""Log-probabilities under a frozen reference, kept on disk: retries, resumed runs and later jobs need no second pass.

An entry is named by a digest of the reference's files, the type of its numbers, and the token ids of all sequences,
which say everything about rows, tokenizer and chat template. An entry that cannot be read counts as absent.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from plumbline_trainer.checkpoint.durable import flush
from plumbline_trainer.data.batches import TokenSequence

FOLDER = "reference-logprobs"
"""Below the folder of checkpoints, or of `PLUMBLINE_CACHE` where that is set."""


def entry_name(model_digest: str, dtype: torch.dtype, sequences: Iterable[TokenSequence], *, by_token: bool) -> str:
    """The digest that names an entry."""
    digest = hashlib.sha256(f"{model_digest} {dtype} {'tokens' if by_token else 'sequences'}".encode())
    for sequence in sequences:
        for ids in (sequence.prompt_ids, sequence.completion_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(np.asarray(ids, dtype=np.int64).tobytes())
    return digest.hexdigest()


class ReferenceCache:
    """The entries of one folder. Several jobs may share it: entries are written whole or not at all."""

    def __init__(self, checkpoints: str) -> None:
        self.folder = Path(os.environ.get("PLUMBLINE_CACHE") or checkpoints) / FOLDER

    def read(self, name: str) -> torch.Tensor | None:
        """The numbers of the entry, or None."""
        try:
            return load_file(self._file(name))["logprobs"]
        except (OSError, SafetensorError, KeyError):
            return None

    def write(self, name: str, logprobs: torch.Tensor) -> None:
        """Keeps float32 numbers. A folder that cannot be written keeps nothing: the cache saves time and no more."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{name}.{os.getpid()}.partial"
            partial.write_bytes(save({"logprobs": logprobs.contiguous()}))
            flush(partial)
            partial.rename(self._file(name))
        except OSError:
            return

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
