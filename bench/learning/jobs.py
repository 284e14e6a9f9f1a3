"""The job document of a run, and the digest that tells whether a stored result is that of the same configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.learning.methods import GROUP, SHARED, Method
from bench.learning.tasks import Task

Document = dict[str, Any]

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Place:
    """Where a run finds what it reads."""

    model: Path
    train: Path
    held_out: Path


def job(task: Task, method: Method, seed: int, place: Place, output: Path) -> Document:
    """The manifest of the run, as `python -m plumbline_trainer --config` takes it."""
    steps = task.steps
    shared = {
        **SHARED,
        "training": {
            "steps": steps,
            "batchSize": round(task.prompts * method.share) * GROUP,
            "maxPromptTokens": task.max_prompt_tokens,
            "maxCompletionTokens": task.max_completion_tokens,
            "seed": seed,
        },
    }
    rewards = [_with_code(reward) for reward in method.rewards or task.rewards]
    spec = {
        "runtimeRef": {"name": "none"},
        "model": {"source": {"path": {"path": str(place.model)}}, "dtype": "float32"},
        "data": {
            "train": {"source": {"path": {"path": str(place.train)}}},
            "evaluation": {"source": {"path": {"path": str(place.held_out)}}},
        },
        **merged(shared, method.spec),
        "rewards": rewards,
        "evaluation": {"everySteps": steps // task.evaluations, "maxRows": task.held_out, "batchSize": task.held_out},
        "checkpoint": {"everySeconds": 0, "keep": 1},
        "output": {"path": str(output)},
    }
    name = f"{task.name}-{method.name}-{seed}".lower()
    return {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "RLVRJob",
        "metadata": {"name": name},
        "spec": spec,
    }


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> Document:
    """`base` with the fields of `change`; a one-of (a mapping with another single key) is replaced, not joined."""
    result = dict(base)
    for key, value in change.items():
        present = result.get(key)
        if isinstance(present, Mapping) and isinstance(value, Mapping) and key in _BLOCKS:
            result[key] = merged(present, value)
        else:
            result[key] = value
    return result


def digest(document: Document) -> str:
    """SHA-256 over the document, in which every path is replaced by the digest of what lies there."""
    spec = {key: value for key, value in document["spec"].items() if key != "output"}
    text = json.dumps(_by_content(spec), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the weights of a model's directory."""
    file = path / "model.safetensors" if path.is_dir() else path
    return hashlib.sha256(file.read_bytes()).hexdigest()


_BLOCKS = ("rollout", "training")
"""Blocks of which a method changes single fields; all others are choices, of which it takes another one."""


def _with_code(reward: Document) -> Document:
    python = reward["verifier"].get("python")
    if python is None:
        return reward
    return {**reward, "verifier": {"python": {**python, "path": str(HERE / python["path"])}}}


def _by_content(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: content_digest(Path(item)) if key == "path" and isinstance(item, str) else _by_content(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_by_content(item) for item in value]
    return value
