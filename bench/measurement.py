"""What one side is told, and what it measures about itself: the two files that pass between the processes."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Assignment:
    """One training, the same for every side."""

    model: str
    """Directory of the model and its tokenizer."""

    rows: str
    """JSON lines with prompt, chosen and rejected, taken in the order of the file in every epoch."""

    pairs_per_step: int
    epochs: int
    learning_rate: float
    beta: float
    gradient_clip: float
    seed: int
    work: str
    """An empty folder for whatever the trainer writes."""

    report: str
    """File for the `Report`."""

    precompute_reference: bool = False
    """TRL only: the reference's log-probabilities are computed before the first step."""

    compile: bool = False
    """Plumbline only: the step goes through torch.compile."""

    profile_step: int | None = None
    """Plumbline only: the step (from 0) that runs under torch's profiler and is therefore slower."""

    def write(self, path: Path) -> None:
        """Writes the assignment as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> Assignment:
        """Reads what `write` wrote."""
        return cls(**json.loads(path.read_text()))


@dataclass
class Seconds:
    """Duration of something, on the wall and summed over the process's threads."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    @classmethod
    def now(cls) -> Seconds:
        """Readings of both clocks."""
        return cls(time.perf_counter(), time.process_time())


@dataclass
class Step:
    """One optimizer step, from the end of the step before to its own end: whatever a trainer does between steps, such
    as collating and logging, is part of it."""

    seconds: Seconds
    loss: float
    tokens: int
    """Useful tokens: those of chosen and rejected sequences without padding, the prompt counted for both."""


@dataclass
class ProfiledOperation:
    """All calls of one operator with the same input shapes, in the same part of the profiled step."""

    name: str
    shapes: list[Any]
    calls: int
    cpu_seconds: float
    """Without the operators it calls."""

    in_head: bool = False
    """Whether the function that turns hidden states into log-probabilities called it, forward or backward."""


@dataclass
class Report:
    """What a side measured about one training."""

    versions: dict[str, str]
    base_bytes: int
    """Resident memory after all imports, before anything is loaded."""

    peak_bytes: int
    """Highest resident memory up to the end of the last step."""

    loading: Seconds
    """Reading weights into models."""

    before_steps: Seconds
    """From the end of the imports to the first step, without `loading`: rows, tokens, optimizer, and whatever of the
    reference is computed ahead."""

    steps: list[Step]
    kernel_seconds: float
    """CPU seconds of all the above that the kernel took, mostly for handing out memory."""

    token_digest: str
    """Digest of all token ids that the trainer trained on."""

    phases: dict[str, float] = field(default_factory=dict)
    """Wall seconds of parts of the steps, where the trainer tells them."""

    profile: list[ProfiledOperation] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes the report as JSON, in one piece."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.rename(path)

    @classmethod
    def read(cls, path: Path) -> Report:
        """Reads what `write` wrote."""
        return cls.of(json.loads(path.read_text()))

    @classmethod
    def of(cls, document: dict[str, Any]) -> Report:
        """A report from its JSON document."""
        parts = {
            "loading": Seconds(**document["loading"]),
            "before_steps": Seconds(**document["before_steps"]),
            "steps": [Step(Seconds(**step["seconds"]), step["loss"], step["tokens"]) for step in document["steps"]],
            "profile": [ProfiledOperation(**operation) for operation in document["profile"]],
        }
        return cls(**{**document, **parts})


class Recorder:
    """Reads the clocks and the memory of this process while a trainer runs. Made after the imports."""

    def __init__(self) -> None:
        self.base_bytes = memory_bytes("VmRSS")
        self.peak_bytes = self.base_bytes
        self.loading = Seconds()
        self.before_steps = Seconds()
        self.steps: list[Step] = []
        self.kernel_seconds = 0.0
        self._kernel_before = _kernel_seconds()
        self._last = Seconds.now()

    @contextmanager
    def reading_weights(self) -> Iterator[None]:
        """Marks the reading of weights before the first step."""
        started = Seconds.now()
        yield
        self.loading += Seconds.now() - started

    def step_begins(self) -> None:
        """Marks the beginning of a step; only the first one's counts."""
        if not self.steps and self.before_steps == Seconds():
            now = Seconds.now()
            self.before_steps = now - self._last - self.loading
            self._last = now

    def step_ended(self, loss: float, tokens: int) -> None:
        """Marks the end of a step."""
        now = Seconds.now()
        self.steps.append(Step(now - self._last, loss, tokens))
        self._last = now
        self.peak_bytes = memory_bytes("VmHWM")
        self.kernel_seconds = _kernel_seconds() - self._kernel_before

    def report(self, versions: dict[str, str], token_digest: str) -> Report:
        """What was measured."""
        return Report(
            versions,
            self.base_bytes,
            self.peak_bytes,
            self.loading,
            self.before_steps,
            self.steps,
            self.kernel_seconds,
            token_digest,
        )


def _kernel_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


def memory_bytes(name: str) -> int:
    """A line of `/proc/self/status`, such as VmRSS (resident) or VmHWM (its highest value)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {name}")


def digest_tokens(rows: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]]) -> str:
    """Digest of the token ids of rows (prompt, chosen, rejected), in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([list(part) for part in row]).encode())
    return digest.hexdigest()
