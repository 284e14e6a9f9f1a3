"""The checkpoints of one run: atomic writes, the newest verified one, retention.

    <directory>/step-00000040/parameters.safetensors   trainable parameters by name
                              optimizer.safetensors    optimizer tensors as <parameter>/<name>
                              optimizer.json           optimizer state besides tensors
                              task.safetensors         the task's own tensors, such as a moving reference
                              state.json               step, task state, evaluations, identity of the run
                              manifest.json            size and SHA-256 of every file above

A checkpoint is written under a temporary name, flushed, read back and digested, and renamed last. Nothing is pickled:
loading one cannot run code.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from plumbline_api.status import CheckpointStatus
from plumbline_trainer.checkpoint.durable import disk_errors, equalize_permissions, flush, flush_tree, remove_tree
from plumbline_trainer.checkpoint.manifest import MANIFEST_NAME, Damaged, Manifest
from plumbline_trainer.failures import CheckpointUnreadable

PARAMETERS = "parameters.safetensors"
OPTIMIZER_TENSORS = "optimizer.safetensors"
OPTIMIZER_VALUES = "optimizer.json"
TASK_TENSORS = "task.safetensors"
STATE = "state.json"
FILES = (PARAMETERS, OPTIMIZER_TENSORS, OPTIMIZER_VALUES, TASK_TENSORS, STATE)

_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = re.compile(r"\.step-\d{8,}\.(partial|deleted)")


@dataclass(frozen=True)
class Snapshot:
    """The complete state of a run after a step."""

    parameters: dict[str, torch.Tensor]
    optimizer_tensors: dict[str, torch.Tensor]
    optimizer_values: dict[str, Any]
    state: dict[str, Any]
    """JSON-able; see `loop`."""

    task_tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    """See `tasks.task.Task.tensors`."""


class CheckpointStore:
    """The checkpoints in one directory, written by one process."""

    def __init__(
        self,
        directory: Path,
        keep: int,
        uri: str = "",
        warn: Callable[[str], None] = lambda _: None,
        keep_within_seconds: float = 0,
    ) -> None:
        """`warn` is told of damaged checkpoints, each of them once."""
        self.directory = directory
        self._keep = keep
        self._keep_within = timedelta(seconds=keep_within_seconds)
        self._uri = (uri or str(directory)).rstrip("/")
        self._warn = warn
        self._damaged: set[str] = set()

    def newest_verified(self) -> CheckpointStatus | None:
        """The newest checkpoint whose files all match its manifest; None where there is no checkpoint at all.

        Damaged ones are passed over with a warning each. Raises `CheckpointUnreadable` where checkpoints exist and
        none of them verifies: starting over would throw work away without a word.
        """
        with disk_errors(f"reading the checkpoints in {self.directory}"):
            found = self._steps()
            for step in sorted(found, reverse=True):
                path = found[step]
                try:
                    manifest = _verified(path, step)
                except Damaged as damage:
                    self._damaged.add(path.name)
                    self._warn(f"checkpoint {path} is damaged and was passed over: {damage}")
                    continue
                return self._status(manifest)
        if found:
            raise CheckpointUnreadable(
                f"none of the {len(found)} checkpoints in {self.directory} can be used (the warnings say why); "
                "repair or delete them to start over"
            )
        return None

    def newest_matching(self, last: int, accept: Callable[[Mapping[str, Any]], bool]) -> int | None:
        """The newest step up to `last` whose checkpoint verifies and whose state `accept` takes; None without one."""
        with disk_errors(f"reading the checkpoints in {self.directory}"):
            for step, path in sorted(self._steps().items(), reverse=True):
                if step > last:
                    continue
                try:
                    _verified(path, step)
                except Damaged as damage:
                    self._warn(f"checkpoint {path} is damaged and was passed over: {damage}")
                    continue
                if accept(json.loads((path / STATE).read_bytes())):
                    return step
        return None

    def states(self) -> dict[int, dict[str, Any]]:
        """The state of every checkpoint that has a readable one, by step; nothing is verified."""
        found = {}
        for step, path in self._steps().items():
            with suppress(OSError, ValueError):
                found[step] = json.loads((path / STATE).read_bytes())
        return found

    def remove_after(self, step: int) -> None:
        """Deletes every checkpoint of a later step."""
        with disk_errors(f"deleting checkpoints in {self.directory}"):
            for found, path in self._steps().items():
                if found > step:
                    remove_tree(path)

    def load(self, step: int) -> Snapshot:
        """Reads the checkpoint of `step`, which `newest_verified` has verified. Tensors are on the CPU."""
        path = self._path(step)
        try:
            return Snapshot(
                load_file(path / PARAMETERS),
                load_file(path / OPTIMIZER_TENSORS),
                json.loads((path / OPTIMIZER_VALUES).read_bytes()),
                json.loads((path / STATE).read_bytes()),
                load_file(path / TASK_TENSORS),
            )
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointUnreadable(f"checkpoint {path} cannot be loaded: {error}") from error

    def load_parameters(self, step: int) -> dict[str, torch.Tensor]:
        """Verifies the checkpoint of `step` and reads its parameters, on the CPU. Raises `CheckpointUnreadable`."""
        path = self._path(step)
        with disk_errors(f"reading checkpoint {path}"):
            try:
                _verified(path, step)
                return load_file(path / PARAMETERS)
            except (Damaged, SafetensorError) as damage:
                raise CheckpointUnreadable(f"checkpoint {path} cannot be used: {damage}") from damage

    def uri_of(self, step: int) -> str:
        """How the checkpoint of `step` is called in status."""
        return f"{self._uri}/{self._path(step).name}"

    def save(
        self, step: int, snapshot: Snapshot, best: int | None = None, also: Collection[int] = ()
    ) -> CheckpointStatus:
        """Writes the checkpoint of `step`, then deletes what retention no longer keeps; never that of step `best`, nor
        of a step in `also`.

        Raises `DiskFull` or `InfrastructureError`; older checkpoints are untouched in that case.
        """
        final = self._path(step)
        temporary = self.directory / f".{final.name}.partial"
        with disk_errors(f"writing checkpoint {final}"):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            temporary.mkdir()
            try:
                manifest = self._write(temporary, step, snapshot)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            if final.exists():
                # only a damaged one is ever written anew
                remove_tree(final)
            temporary.rename(final)
            flush(self.directory)
            self._damaged.discard(final.name)
            self._apply_retention({best, *also})
        return self._status(manifest)

    def _write(self, directory: Path, step: int, snapshot: Snapshot) -> Manifest:
        save_file(_on_cpu(snapshot.parameters), directory / PARAMETERS)
        save_file(_on_cpu(snapshot.optimizer_tensors), directory / OPTIMIZER_TENSORS)
        (directory / OPTIMIZER_VALUES).write_text(json.dumps(snapshot.optimizer_values, indent=2))
        save_file(_on_cpu(snapshot.task_tensors), directory / TASK_TENSORS)
        (directory / STATE).write_text(json.dumps(snapshot.state, indent=2))
        equalize_permissions(directory, directory / STATE)
        flush_tree(directory)
        manifest = Manifest.of_directory(directory, step, FILES)
        (directory / MANIFEST_NAME).write_bytes(manifest.encode())
        flush(directory / MANIFEST_NAME)
        flush(directory)
        return manifest

    def _apply_retention(self, spared: Collection[int | None]) -> None:
        """Keeps the newest `keep` that are not known to be damaged, and deletes everything older than the last of
        them, except those in `spared` and those that are younger than `keep_within_seconds`. The newest verified one is
        among those kept, since it is the newest that is not damaged."""
        steps = self._steps()
        sound = sorted((step for step, path in steps.items() if path.name not in self._damaged), reverse=True)
        if len(sound) < self._keep:
            return
        oldest_kept = sound[self._keep - 1]
        for step, path in steps.items():
            if step < oldest_kept and step not in spared and not self._is_young(path):
                remove_tree(path)

    def _is_young(self, path: Path) -> bool:
        """Whether retention by age keeps it; a checkpoint without a readable manifest is of no use at any age."""
        if not self._keep_within:
            return False
        try:
            return datetime.now(UTC) - Manifest.read(path).time < self._keep_within
        except Damaged:
            return False

    def _remove_leftovers(self) -> None:
        """Deletes what a killed process left under temporary names."""
        for path in self.directory.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                shutil.rmtree(path)

    def _steps(self) -> dict[int, Path]:
        if not self.directory.is_dir():
            return {}
        return {
            int(match[1]): path
            for path in self.directory.iterdir()
            if (match := _NAME.fullmatch(path.name)) and path.is_dir()
        }

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}"

    def _status(self, manifest: Manifest) -> CheckpointStatus:
        return CheckpointStatus(
            step=manifest.step,
            time=manifest.time,
            uri=self.uri_of(manifest.step),
            digest=manifest.digest,
            verified=True,
            size_bytes=sum(size for size, _ in manifest.files.values()),
        )


def _verified(path: Path, step: int) -> Manifest:
    """The manifest of the checkpoint of `step` at `path`, with which all of its files agree. Raises `Damaged`."""
    manifest = Manifest.read(path)
    if manifest.step != step:
        raise Damaged(f"{MANIFEST_NAME} is about step {manifest.step}")
    if missing := [name for name in FILES if name not in manifest.files]:
        raise Damaged(f"{MANIFEST_NAME} does not list {missing[0]}")
    manifest.verify(path)
    return manifest


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
