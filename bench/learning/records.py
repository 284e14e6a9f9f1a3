"""What is kept of a run, and the file with all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.learning.training import Event, Ran

WINDOWS = 20
"""Points of a training curve: means over so many equal stretches of the run."""

CURVES = ("accuracy", "completions/length", "advantages/zero_groups", "entropy")
"""Metrics of steps that are kept besides the components of the reward and what the curriculum says."""

PREFIXES = ("reward/", "curriculum/")
_NOT_SHOWN = ("reward/mean",)


@dataclass(frozen=True)
class Silent:
    """Steps on rollouts without a group whose rewards differ."""

    steps: int
    moved: int
    """Those of them whose gradient was not zero."""

    mean_gradient: float
    """Mean norm of their gradients."""


@dataclass(frozen=True)
class Record:
    """One run."""

    task: str
    method: str
    seed: int
    digest: str
    """Of the configuration (`jobs.digest`)."""

    commit: str
    held_out: list[tuple[int, float]]
    """Steps and pass rates of greedy answers, the first before training."""

    held_out_length: list[tuple[int, float]]
    """Mean tokens of those answers."""

    curves: dict[str, list[float | None]]
    """Means of the training metrics over `WINDOWS` stretches of the run."""

    completions_per_step: float
    """Completions of a rollout over its updates, without those that dynamic sampling adds."""

    tokens: int
    """Read and written for the rollouts."""

    silent: Silent
    cpu_seconds: float
    wall_seconds: float
    probe: dict[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.task, self.method, self.seed)

    @property
    def before(self) -> float:
        """Held-out pass rate before the first step."""
        return self.held_out[0][1]

    @property
    def after(self) -> float:
        """Held-out pass rate after the last step."""
        return self.held_out[-1][1]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Record:
        """A record from its JSON document."""
        pairs = {name: [tuple(pair) for pair in document[name]] for name in ("held_out", "held_out_length")}
        return cls(**{**document, **pairs, "silent": Silent(**document["silent"])})


def record(key: tuple[str, str, int], digest: str, commit: str, document: Mapping[str, Any], ran: Ran) -> Record:
    """What is kept of a run of the job document; `key` is task, method and seed."""
    spec = document["spec"]
    updates = spec["rollout"]["updatesPerRollout"]
    steps = [event for event in ran.events if event["event"] == "step"]
    evaluations = [event for event in ran.events if event["event"] == "evaluation"]
    names = [name for name in steps[0] if name in CURVES or (name.startswith(PREFIXES) and name not in _NOT_SHOWN)]
    return Record(
        *key,
        digest,
        commit,
        [(event["step"], _rounded(event["evaluation/accuracy"])) for event in evaluations],
        [(event["step"], _rounded(event["evaluation/completions/length"])) for event in evaluations],
        {name: windows([event.get(name) for event in steps]) for name in names},
        spec["training"]["batchSize"] / updates,
        int(sum(event["tokens"] for event in steps[::updates])),
        silent(steps),
        round(ran.cpu_seconds, 1),
        round(ran.wall_seconds, 1),
        ran.probe,
    )


def windows(values: Sequence[float | None], count: int = WINDOWS) -> list[float | None]:
    """Means of `count` consecutive stretches, or single values where there are fewer; None where nothing is known."""
    count = min(count, len(values))
    bounds = [round(index * len(values) / count) for index in range(count + 1)]
    return [_mean(values[start:end]) for start, end in pairwise(bounds)]


def silent(steps: Iterable[Event]) -> Silent:
    """The steps without a group that has a signal, and what moved in them."""
    norms = [event["gradient_norm"] for event in steps if event.get("advantages/zero_groups") == 1.0]
    return Silent(len(norms), sum(norm > 0 for norm in norms), _rounded(_mean(norms) or 0.0))


@dataclass
class Results:
    """All records, and what they are to be read with."""

    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    records: dict[tuple[str, str, int], Record] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads what `write` wrote; empty where there is no file."""
        if not path.exists():
            return cls()
        document = json.loads(path.read_text(encoding="utf-8"))
        records = [Record.of(one) for one in document["runs"]]
        return cls(document["machine"], document["versions"], {one.key: one for one in records})

    def write(self, path: Path) -> None:
        """Writes one line a run, in one piece."""
        head = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "machine": self.machine}
        lines = [json.dumps(asdict(one), separators=(",", ":")) for _, one in sorted(self.records.items())]
        text = json.dumps({**head, "versions": self.versions}, indent=1)[:-2] + ',\n "runs": [\n'
        partial = path.with_suffix(".partial")
        partial.write_text(text + ",\n".join(lines) + "\n]\n}\n", encoding="utf-8")
        partial.replace(path)

    def of(self, task: str, method: str) -> list[Record]:
        """The runs of a method on a task, by seed."""
        return [one for key, one in sorted(self.records.items()) if key[:2] == (task, method)]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records.values())


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return _rounded(sum(known) / len(known)) if known else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
