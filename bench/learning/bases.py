"""The models that jobs start from, and the rows: made once and kept in the cache.

| base | what it is |
|---|---|
| tiny | the project's tiny model (examples/tiny-model) |
| tails | the tiny model after a short warm-up on answers with tails |
| columns | the same architecture and a tokenizer of its own, from random weights, on two tasks of reasoning-gym |
| programs | the same, on programs |

All are made by the trainer itself, by PreferenceJobs with the objective `sft`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.learning.corpora import MADE, corpus, with_tails, write_rows
from bench.learning.jobs import Place, content_digest
from bench.learning.tasks import TASKS, Task
from bench.learning.training import Trainer
from bench.machine import ROOT
from bench.workload import cache_directory

SEED = 0
"""Of rows and base models; runs have seeds of their own."""

TINY_MODEL = ROOT / "examples" / "tiny-model"
_STEPS = {"tails": 120, "columns": 2500, "programs": 300}
"""Of the warm-ups, 64 rows each."""

_FROM_RANDOM: dict[str, Any] = {
    "optimizer": {"adamw": {"learningRate": 0.003, "beta2": 0.98}},
    "schedule": {"warmupStableDecay": {"warmupFraction": 0.05, "decayFraction": 0.2}},
}
_FROM_TINY: dict[str, Any] = {
    "optimizer": {"adamw": {"learningRate": 0.001, "beta2": 0.98}},
    "schedule": {"linear": {"warmupFraction": 0.05}},
}


class Bases:
    """Base models and rows below one folder."""

    def __init__(self, trainer: Trainer, folder: Path | None = None) -> None:
        self._trainer = trainer
        self._folder = folder or cache_directory() / "learning"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tiny: Path | None = None
        self._models: dict[str, Path] = {}
        self._rows: Path | None = None

    def place(self, task: Task) -> Place:
        """Model and files of a task; makes what is not there yet."""
        rows = self.tiny_model() / "data" if task.base == "tiny" else self.rows() / task.name
        names = ("prompts-train", "prompts-heldout") if task.base == "tiny" else ("train", "heldout")
        train, held_out = (rows / f"{name}.jsonl" for name in names)
        return Place(self.model(task.base), train, held_out)

    def model(self, base: str) -> Path:
        """Directory of a base model."""
        if base not in self._models:
            self._models[base] = self.tiny_model() / "model" if base == "tiny" else self._warmed(base)
        return self._models[base]

    def tiny_model(self) -> Path:
        """Folder of the tiny model and its data."""
        if self._tiny is None:
            link = self._folder / "tiny-model"
            subprocess.run([sys.executable, str(TINY_MODEL / "build.py"), "--output", str(link)], check=True)
            self._tiny = link.resolve()
        return self._tiny

    def rows(self) -> Path:
        """Folder with a folder of rows for each task that the tiny model's data does not hold."""
        if self._rows is None:
            made = hashlib.sha256((Path(__file__).parent / "corpora.py").read_bytes())
            made.update(content_digest(self.tiny_model() / "data" / "sft-train.jsonl").encode())
            folder = self._folder / f"rows-{made.hexdigest()[:12]}"
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                _write_rows(partial, self.tiny_model() / "data")
                partial.rename(folder)
            self._rows = folder
        return self._rows

    def _warmed(self, base: str) -> Path:
        demonstrations = self.rows() / base / "demonstrations.jsonl"
        start = self.model("tiny") if base == "tails" else self._untrained(demonstrations)
        settings = _settings(base)
        identity = [content_digest(demonstrations), content_digest(start), settings]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        finished = self._folder / f"{base}-{digest}"
        if not finished.exists():
            # an interrupted warm-up goes on from the checkpoint that the trainer left here
            work = self._folder / f"{base}-{digest}.partial"
            ran = self._trainer.run(_warm_up(base, settings, start, demonstrations, work / "model"), work)
            print(f"base {base}: {ran.cpu_seconds:.0f} CPU seconds", flush=True)
            (work / "model").rename(finished)
            shutil.rmtree(work)
        return finished

    def _untrained(self, demonstrations: Path) -> Path:
        folder = demonstrations.parent / "untrained"
        if not folder.exists():
            # the same tokenizer and architecture as the tiny model's, over other texts
            sys.path.insert(0, str(TINY_MODEL))
            from make_tokenizer import write_untrained_model  # type: ignore[import-not-found]

            partial = folder.with_suffix(".partial")
            write_untrained_model(demonstrations, partial, SEED)
            partial.rename(folder)
        return folder


def _settings(base: str) -> dict[str, Any]:
    task = next(task for task in TASKS.values() if task.base == base)
    training = {
        "steps": _STEPS[base],
        "batchSize": 64,
        "maxPromptTokens": task.max_prompt_tokens,
        "maxCompletionTokens": task.max_completion_tokens,
        "seed": SEED,
    }
    return {**(_FROM_TINY if base == "tails" else _FROM_RANDOM), "training": training}


def _warm_up(base: str, settings: dict[str, Any], start: Path, demonstrations: Path, output: Path) -> dict[str, Any]:
    return {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "PreferenceJob",
        "metadata": {"name": f"base-{base}"},
        "spec": {
            "runtimeRef": {"name": "none"},
            "model": {"source": {"path": {"path": str(start)}}, "dtype": "float32"},
            "objective": {"sft": {}},
            "data": {"train": {"source": {"path": {"path": str(demonstrations)}}}},
            **settings,
            "checkpoint": {"everySeconds": 0, "keep": 1},
            "output": {"path": str(output)},
        },
    }


def _write_rows(folder: Path, tiny_data: Path) -> None:
    shared: dict[str, list[dict[str, Any]]] = {}
    for name, make in MADE.items():
        made = corpus(make(SEED), SEED)
        made.write(folder / name)
        if TASKS[name].base != name:
            shared.setdefault(TASKS[name].base, []).extend(made.demonstrations)
    for base, rows in shared.items():
        random.Random(f"{SEED} {base}").shuffle(rows)
        (folder / base).mkdir()
        write_rows(folder / base / "demonstrations.jsonl", rows)
    with_tails(tiny_data, SEED).write(folder / "tails")
