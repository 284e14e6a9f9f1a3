"""What one side is told about an RLVR training, and what it measures: the two files that pass between the processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.measurement import Recorder, Seconds


@dataclass(frozen=True)
class RolloutAssignment:
    """One training, the same for every side."""

    model: str
    """Directory of the model and its tokenizer."""

    rows: str
    """JSON lines with a prompt each, taken in the order of the file."""

    prompts_per_iteration: int
    group_size: int
    iterations: int
    max_tokens: int
    """Longest completion."""

    learning_rate: float
    gradient_clip: float
    seed: int
    """Of the sampling alone."""

    work: str
    """An empty folder for whatever the trainer writes."""

    report: str
    """File for the `RolloutReport`."""

    def write(self, path: Path) -> None:
        """Writes the assignment as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> RolloutAssignment:
        """Reads what `write` wrote."""
        return cls(**json.loads(path.read_text()))


@dataclass
class Rollout:
    """What a side says about one iteration's completions."""

    tokens: int
    """Of all completions, the end token included."""

    reward: float
    """Mean over the completions."""

    generate_seconds: float
    """Wall time from the prompts' tokens to the completions' tokens."""

    score_seconds: float
    """Wall time of the reward function."""


@dataclass
class Iteration:
    """Generation, scoring and update: from the end of the iteration before to its own end."""

    seconds: Seconds
    """CPU time is that of the trainer and of all processes that it started."""

    rollout: Rollout

    @property
    def update_seconds(self) -> float:
        """Wall time of everything that is neither generation nor scoring."""
        return self.seconds.wall - self.rollout.generate_seconds - self.rollout.score_seconds


@dataclass
class RolloutReport:
    """What a side measured about one training."""

    versions: dict[str, str]
    base_bytes: int
    """Resident memory after all imports, before anything is loaded."""

    peak_bytes: int
    """Highest resident memory up to the end of the last iteration."""

    helper_bytes: int
    """Highest memory of the processes that the trainer started, pages that they share counted once."""

    before_iterations: Seconds
    """From the end of the imports to the first iteration, with reading weights."""

    iterations: list[Iteration]
    prompt_digest: str
    """Digest of the prompts' token ids in the order in which they were used."""

    def write(self, path: Path) -> None:
        """Writes the report as JSON, in one piece."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.rename(path)

    @classmethod
    def read(cls, path: Path) -> RolloutReport:
        """Reads what `write` wrote."""
        return cls.of(json.loads(path.read_text()))

    @classmethod
    def of(cls, document: dict[str, Any]) -> RolloutReport:
        """A report from its JSON document."""
        iterations = [
            Iteration(Seconds(**iteration["seconds"]), Rollout(**iteration["rollout"]))
            for iteration in document["iterations"]
        ]
        before = Seconds(**document["before_iterations"])
        return cls(**{**document, "before_iterations": before, "iterations": iterations})


class Helpers:
    """Reads time and memory of the processes that this one has started."""

    def __init__(self) -> None:
        self.bytes = 0
        self.cpu_seconds: list[float] = []
        """CPU seconds up to the end of each iteration."""

    def iteration_ended(self) -> None:
        """Reads the clocks."""
        processes = list(_descendants(os.getpid()))
        self.bytes = max(self.bytes, sum(_proportional_bytes(process) for process in processes))
        self.cpu_seconds.append(sum(_cpu_seconds(process) for process in processes))


def iterations_of(recorder: Recorder, rollouts: Sequence[Rollout], helpers: Helpers) -> list[Iteration]:
    """Joins what clocks and trainer say about the iterations."""
    before = [0.0, *helpers.cpu_seconds]
    return [
        # helpers that were replaced take their seconds with them, hence no negative differences
        Iteration(step.seconds + Seconds(0.0, max(0.0, after - earlier)), rollout)
        for step, rollout, earlier, after in zip(recorder.steps, rollouts, before, helpers.cpu_seconds, strict=False)
    ]


def _descendants(process: int) -> Iterator[int]:
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _descendants(int(child))


def _proportional_bytes(process: int) -> int:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{process}/smaps_rollup has no Pss")


def _cpu_seconds(process: int) -> float:
    """User and system time, from the fields after the name, which may hold spaces."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
