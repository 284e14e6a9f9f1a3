"""The jobs that the operator knows, with phase and runtime. Rebuilt from the watch at every start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from plumbline_api.conditions import Phase
from plumbline_operator.job_metrics import JobFigures
from plumbline_operator.resources import JOBS, JobKey

RuntimeName = tuple[str, str | None, str]
"""Kind, namespace (None for cluster scope) and name of a runtime."""


class JobRegistry:
    """Known jobs. Metrics are counted from it at scrape time, so that deleted jobs leave nothing behind.

    Scrapes come from a thread of their own. `dict.copy` is one step, which nothing interrupts; `list(items())` is none:
    each of its tuples may start a garbage collection, in which another thread may get its turn.
    """

    def __init__(self) -> None:
        self._phases: dict[JobKey, str] = {}
        self._runtimes: dict[JobKey, RuntimeName] = {}
        self._figures: dict[JobKey, JobFigures] = {}

    def __contains__(self, key: JobKey) -> bool:
        return key in self._phases

    def __len__(self) -> int:
        return len(self._phases)

    def store(self, key: JobKey, phase: str) -> None:
        self._phases[key] = phase

    def names_runtime(self, key: JobKey, runtime: RuntimeName) -> None:
        self._runtimes[key] = runtime

    def describe(self, key: JobKey, figures: JobFigures) -> None:
        """What metrics show of the job, as its stored status has it."""
        self._figures[key] = figures

    def figures(self) -> list[tuple[JobKey, JobFigures]]:
        """What metrics show of each job."""
        return list(self._figures.copy().items())

    def remove(self, key: JobKey) -> None:
        self._phases.pop(key, None)
        self._figures.pop(key, None)
        self._runtimes.pop(key, None)

    def is_new(self, key: JobKey) -> bool:
        """Whether the job has not started."""
        return self._phases.get(key, "") in ("", Phase.PENDING)

    def waiting_for(self, runtime: RuntimeName) -> Iterator[JobKey]:
        """Jobs that name the runtime and have not started: the others live on their snapshot."""
        for key, named in list(self._runtimes.items()):
            if named == runtime and self.is_new(key):
                yield key

    def keys_named(self, namespace: str, name: str) -> list[JobKey]:
        """Jobs of any kind with this name."""
        return [key for kind in JOBS if (key := JobKey(kind, namespace, name)) in self._phases]

    def keys_by_need(self) -> list[JobKey]:
        """All known jobs, those that have ended last: little or nothing is left to do about them."""
        return sorted(self._phases, key=lambda key: self._phases[key] in (Phase.COMPLETE, Phase.FAILED))

    def keys(self, kind: str) -> list[JobKey]:
        """All known jobs of a kind."""
        return [key for key in self._phases if key.kind == kind]

    def phases(self) -> Counter[tuple[str, str]]:
        """Number of jobs by kind and phase."""
        return Counter((key.kind, phase or "Pending") for key, phase in self._phases.copy().items())
