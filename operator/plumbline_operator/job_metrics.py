"""Series of single jobs: what of a job's status Prometheus shows, and for how many jobs (pure).

The series are computed from the stored status at each scrape, so they survive a restart of the operator and vanish with
their job. The labels name the job in full (`job_kind`, `job_namespace`, `job_name`), as the trainer's do: `namespace`
would be renamed by most ways of scraping, and `job` by all of them.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from plumbline_api.conditions import Phase
from plumbline_api.status import StateTime
from plumbline_operator.resources import JobKey

JOB_LABELS = ("job_kind", "job_namespace", "job_name")

FINISHED = (Phase.COMPLETE, Phase.FAILED)

STATES: tuple[str, ...] = get_args(StateTime.model_fields["state"].annotation)
"""States of the ledger. Each has a series from the first entry on, so that its first seconds are seen as a change."""


@dataclass(frozen=True)
class Family:
    """One metric family of the operator; `name` is without the `_total` that counters get."""

    name: str
    documentation: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter", "histogram"] = "gauge"

    @property
    def shown_name(self) -> str:
        return self.name + ("_total" if self.kind == "counter" else "")


JOB_FAMILIES = (
    Family("plumbline_job_info", "Always 1; what the job is, in its labels.", (*JOB_LABELS, "objective", "runtime")),
    Family("plumbline_job_phase", "1 for the present phase; the other phases have no series.", (*JOB_LABELS, "phase")),
    Family(
        "plumbline_job_condition",
        "1 for a condition that is True, 0 for one that is False; none while it is Unknown.",
        (*JOB_LABELS, "condition", "reason"),
    ),
    Family("plumbline_job_created_timestamp_seconds", "When the job was created, as Unix time.", JOB_LABELS),
    Family("plumbline_job_finished_timestamp_seconds", "When the job ended, as Unix time.", JOB_LABELS),
    Family("plumbline_job_steps", "Optimizer steps done.", JOB_LABELS),
    Family("plumbline_job_max_steps", "Optimizer steps in all.", JOB_LABELS),
    Family("plumbline_job_gpus", "GPUs of all pods of the job.", JOB_LABELS),
    Family("plumbline_job_restarts", "Attempts beyond the first.", JOB_LABELS),
    Family("plumbline_job_failures", "Attempts that count towards runPolicy.backoffLimit.", JOB_LABELS),
    Family(
        "plumbline_job_checkpoint_timestamp_seconds",
        "When the newest verified checkpoint was taken, as Unix time; none before the first one.",
        JOB_LABELS,
    ),
    Family(
        "plumbline_job_goodput_ratio",
        "Productive share of the time for which the pods held their nodes, since the job began.",
        JOB_LABELS,
    ),
    Family(
        "plumbline_job_state_seconds",
        "Time that the job has spent in each state, from status.usage.states; times plumbline_job_gpus it is GPU time."
        " No counter: what was productive becomes redone when a crash takes it back.",
        (*JOB_LABELS, "state"),
    ),
    Family("plumbline_job_cost", "What the job cost so far, at the runtime's prices.", (*JOB_LABELS, "currency")),
)


class ConditionFigure(NamedTuple):
    """A condition that is True or False."""

    type: str
    holds: bool
    reason: str


@dataclass(frozen=True, slots=True)
class JobFigures:
    """What is shown of one job. Kept for every known job, hence numbers and short words only."""

    phase: str = ""
    objective: str = ""
    runtime: str = ""
    created: float | None = None
    finished: float | None = None
    steps: int | None = None
    max_steps: int | None = None
    gpus: int = 0
    restarts: int = 0
    failures: int = 0
    checkpoint_time: float | None = None
    goodput: float | None = None
    cost: float | None = None
    currency: str = ""
    conditions: tuple[ConditionFigure, ...] = ()
    state_seconds: tuple[tuple[str, float], ...] = ()


def figures_of(job: Mapping[str, Any]) -> JobFigures:
    """The figures of a job as the API server holds it. A job without status has just been created."""
    status: Mapping[str, Any] = job.get("status") or {}
    progress = status.get("progress") or {}
    usage = status.get("usage") or {}
    spent = {_word(entry["state"]): entry["seconds"] for entry in usage.get("states", [])}
    reference = (job.get("spec") or {}).get("runtimeRef")
    return JobFigures(
        phase=_word(status.get("phase") or Phase.PENDING.value),
        objective=_word(status.get("objective")),
        runtime=_word(reference.get("name")) if isinstance(reference, Mapping) else "",
        created=_unix_time(job["metadata"].get("creationTimestamp")),
        finished=_unix_time(status.get("completionTime")),
        steps=progress.get("step"),
        max_steps=progress.get("maxSteps"),
        gpus=status.get("gpus", 0),
        restarts=status.get("restarts", 0),
        failures=status.get("failures", 0),
        checkpoint_time=_unix_time((status.get("checkpoint") or {}).get("time")),
        goodput=usage.get("goodput"),
        cost=usage.get("cost"),
        currency=_word(usage.get("currency")),
        conditions=tuple(
            ConditionFigure(_word(condition["type"]), condition["status"] == "True", _word(condition["reason"]))
            for condition in status.get("conditions", [])
            if condition["status"] in ("True", "False")
        ),
        state_seconds=tuple({**dict.fromkeys(STATES, 0.0), **spent}.items()) if spent else (),
    )


Jobs = Iterable[tuple[JobKey, JobFigures]]


def shown_jobs(jobs: Jobs, limit: int) -> list[tuple[JobKey, JobFigures]]:
    """The jobs that get series: those that have not ended come first, then those that ended last; at most `limit`."""
    found = list(jobs)
    if len(found) <= limit:
        return found
    return heapq.nlargest(limit, found, key=lambda item: _importance(item[1]))


def _importance(figures: JobFigures) -> tuple[bool, float]:
    if figures.phase not in FINISHED:
        return True, figures.created or 0.0
    return False, figures.finished or 0.0


def samples(family: Family, figures: JobFigures) -> Iterator[tuple[tuple[str, ...], float]]:
    """Values of the labels after those of the job, and the value, for each sample that one job has in a family."""
    match family.name:
        case "plumbline_job_info":
            yield (figures.objective, figures.runtime), 1
        case "plumbline_job_phase":
            yield (figures.phase,), 1
        case "plumbline_job_condition":
            for condition in figures.conditions:
                yield (condition.type, condition.reason), float(condition.holds)
        case "plumbline_job_state_seconds":
            for state, seconds in figures.state_seconds:
                yield (state,), seconds
        case "plumbline_job_cost":
            if figures.cost is not None:
                yield (figures.currency,), figures.cost
        case name:
            value = getattr(figures, _FIELDS[name])
            if value is not None:
                yield (), value


_FIELDS = {
    "plumbline_job_created_timestamp_seconds": "created",
    "plumbline_job_finished_timestamp_seconds": "finished",
    "plumbline_job_steps": "steps",
    "plumbline_job_max_steps": "max_steps",
    "plumbline_job_gpus": "gpus",
    "plumbline_job_restarts": "restarts",
    "plumbline_job_failures": "failures",
    "plumbline_job_checkpoint_timestamp_seconds": "checkpoint_time",
    "plumbline_job_goodput_ratio": "goodput",
}
"""Families with one sample a job, and the field that it is."""


def _unix_time(text: object) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except ValueError:
        return None


def _word(value: object) -> str:
    """One copy of each word in memory, however many jobs have it."""
    return sys.intern(str(value or ""))
