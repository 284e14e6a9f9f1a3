"""Where the time of a job went: every second since its creation belongs to exactly one state (pure).

The ledger is settled up to the present attempt; the present attempt is split anew in every decision from the times of
its pods and from what its trainer measured. Working time is productive as far as the run as it is now is made of it,
and redone otherwise. So when a run falls back to an older checkpoint, after a kill as after a rollback, what was lost
becomes redone by itself: the trainer says how much work is behind the state that it restored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from plumbline_api.conditions import Phase
from plumbline_api.status import Attempt, RunTime, SettledTime

Seconds = dict[str, float]
"""Seconds by field of `SettledTime`; `useful` is not among them."""

SPENT = (
    "queued",
    "suspended",
    "backing_off",
    "starting",
    "working",
    "checkpointing",
    "stalled",
    "stopping",
    "unattended",
)

HOLDING = ("starting", "productive", "checkpointing", "stalled", "redone", "stopping")
"""States in which the pods hold their nodes, and the job costs what its runtime says."""

_WORKING = frozenset({"training", "evaluating", "exporting"})
_TAIL = {"starting": "starting", "checkpointing": "checkpointing", "stopping": "stopping", "done": "stopping"}


@dataclass(frozen=True)
class AttemptFacts:
    """What is known about the time of one attempt."""

    attempt: Attempt
    said_last_words: bool = False
    """Whether `attempt.time` is from the trainer's last words: after them it only ended."""

    stalled_since: datetime | None = None
    pods_ended: datetime | None = None
    """When the last container ended; None while one runs, or where nobody saw it."""
    settled_until: datetime | None = None
    """Up to when the ledger was settled before the attempt."""


@dataclass(frozen=True)
class Split:
    """The time of one attempt."""

    seconds: Seconds
    useful: float | None
    """Working time behind the state of the run at the end of it; None where the trainer has not said."""


def split_attempt(facts: AttemptFacts, until: datetime) -> Split:
    """Splits the time from the attempt's start to `until`; the parts add up to it.

    What the ledger has settled already is not split again: the clock of an operator that takes over may be behind.
    Boundaries are clocks of different machines, so each is taken as not before the one before it.
    """
    attempt = facts.attempt
    start = attempt.start_time or until
    if facts.settled_until is not None:
        start = max(start, facts.settled_until)
    end = max(start, until)
    ended = _within(facts.pods_ended, start, end) if facts.pods_ended is not None else end
    seconds = dict.fromkeys(SPENT, 0.0)
    seconds["unattended"] = _between(ended, end)
    if attempt.scheduled_time is None and attempt.running_time is None:
        seconds["queued"] = _between(start, ended)
        return Split(seconds, None)
    scheduled = _within(attempt.scheduled_time or start, start, ended)
    seconds["queued"] = _between(start, scheduled)
    measured = attempt.time
    if measured is None:
        seconds["starting"] = _between(scheduled, ended)
        return Split(seconds, None)
    began = _within(measured.started, scheduled, ended)
    held = _between(began, ended)
    known = {name: getattr(measured, name) for name in ("starting", "working", "checkpointing", "stopping")}
    total = sum(known.values())
    scale = min(1.0, held / total) if total > 0 else 1.0  # a clock that runs fast
    for name, value in known.items():
        seconds[name] += value * scale
    tail = max(0.0, held - total * scale)
    bucket = "stopping" if facts.said_last_words else _bucket(measured.state)
    seconds[bucket] += tail
    seconds["starting"] += _between(scheduled, began)
    useful = measured.useful
    if useful is not None and bucket == "working":
        useful += tail
    if facts.stalled_since is not None and not facts.said_last_words:
        stalled = min(_between(_within(facts.stalled_since, began, ended), ended), seconds[bucket])
        seconds[bucket] -= stalled
        seconds["stalled"] += stalled
        if useful is not None and bucket == "working":
            useful = max(0.0, useful - stalled)
    return Split(seconds, useful)


def surviving(measured: RunTime | None, completed: bool) -> float | None:
    """Working time that outlives an attempt that ended: all of a run that is complete, else what is in a checkpoint."""
    if measured is None:
        return None
    return measured.useful if completed else measured.saved


def split_gap(phase: str, since: datetime, pods_ended: datetime | None, until: datetime) -> Seconds:
    """Splits the time between two attempts, or before the first: `phase` is the one that the job had.

    `pods_ended` is when the last container of the attempt before it ended; None where that is long ago.
    """
    end = max(since, until)
    ended = _within(pods_ended, since, end) if pods_ended is not None else since
    waiting = {Phase.SUSPENDED: "suspended", Phase.SUSPENDING: "suspended", Phase.RESTARTING: "backing_off"}
    by_phase: Mapping[str, str] = {str(known): state for known, state in waiting.items()}
    return {"stopping": _between(since, ended), by_phase.get(phase, "queued"): _between(ended, end)}


def settle(settled: SettledTime, spent: Mapping[str, float], until: datetime, useful: float | None) -> SettledTime:
    """The ledger with one more piece of time in it. It never goes back, though clocks may."""
    sums = {name: getattr(settled, name) + spent.get(name, 0.0) for name in SPENT}
    return SettledTime(until=max(settled.until, until), useful=settled.useful if useful is None else useful, **sums)


def states_of(settled: SettledTime, present: Split | None = None) -> Seconds:
    """Seconds by state as the status shows them: what is settled and the present attempt."""
    spent = dict.fromkeys(SPENT, 0.0) if present is None else present.seconds
    sums = {name: getattr(settled, name) + spent[name] for name in SPENT}
    useful = settled.useful if present is None or present.useful is None else present.useful
    working = sums.pop("working")
    productive = min(useful, working)
    sums["backingOff"] = sums.pop("backing_off")
    return sums | {"productive": productive, "redone": working - productive}


def _bucket(state: str) -> str:
    return "working" if state in _WORKING else _TAIL[state]


def _within(time: datetime, low: datetime, high: datetime) -> datetime:
    return min(max(time, low), high)


def _between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()
