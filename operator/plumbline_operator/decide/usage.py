"""What the job cost so far, and where its time went: the ledger in the status (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from plumbline_api.conditions import ConditionType, Reason
from plumbline_api.contract import StatusReport, TerminationMessage
from plumbline_api.status import Attempt, JobStatus, SettledTime, StateTime, Usage
from plumbline_operator.decide.attempts import Gang, gang_of
from plumbline_operator.decide.conditions import condition_of
from plumbline_operator.decide.ledger import (
    HOLDING,
    AttemptFacts,
    Seconds,
    settle,
    split_attempt,
    split_gap,
    states_of,
    surviving,
)
from plumbline_operator.model import Observed
from plumbline_operator.pods import PodView, parse_time
from plumbline_operator.snapshot import Snapshot

SECONDS_PER_HOUR = 3600


def attempt_seconds(attempt: Attempt | None, now: datetime) -> float:
    """Running time of an attempt: from when all its pods ran to its end, or to now while it is open."""
    if attempt is None or attempt.running_time is None:
        return 0.0
    return max(0.0, ((attempt.end_time or now) - attempt.running_time).total_seconds())


def ended_seconds(status: JobStatus) -> float:
    """Running time of the attempts that have ended, kept in the status because only five attempts are."""
    return status.usage.active_seconds if status.usage else 0.0


def active_seconds(status: JobStatus, now: datetime) -> float:
    """Running time of all attempts: what activeDeadlineSeconds limits."""
    return ended_seconds(status) + _open_seconds(status, now)


def close_attempt(status: JobStatus, attempt: Attempt, now: datetime) -> None:
    """Ends an attempt and moves its running time into the sum of the ended ones, in place."""
    attempt.end_time = max(now, attempt.start_time or now)
    usage = status.usage or Usage()
    usage.active_seconds = round(usage.active_seconds + attempt_seconds(attempt, now), 3)
    status.usage = usage


def update_usage(stored: JobStatus, status: JobStatus, observed: Observed, snapshot: Snapshot, now: datetime) -> None:
    """Brings the ledger and the bill up to `now`, in place; `stored` is the status that the decision began with.

    Nothing but `stored` and what is observed goes in, so it does not matter how often it is done before it is written.
    """
    before = stored.attempts[-1] if stored.attempts else None
    for attempt in status.attempts:
        was_open = before is None or attempt.number > before.number or before.end_time is None
        if was_open and (before is None or attempt.number >= before.number):
            _take_measurements(attempt, gang_of(attempt, snapshot.replicas, observed), observed.report, now)
    settled = _settled(stored, status, observed, snapshot, now)
    last = status.attempts[-1] if status.attempts else None
    present = None
    if last is not None and last.end_time is None:
        present = split_attempt(_facts(last, settled, status, observed, snapshot), now)
    status.usage = _bill(states_of(settled, present), settled, ended_seconds(status), snapshot)


def _settled(
    stored: JobStatus, status: JobStatus, observed: Observed, snapshot: Snapshot, now: datetime
) -> SettledTime:
    """The ledger up to the attempt that is open now, or up to now where none is."""
    settled = stored.usage.settled if stored.usage is not None else None
    created = parse_time(observed.job["metadata"].get("creationTimestamp")) or now
    settled = settled or SettledTime(until=min(created, now))
    before = stored.attempts[-1] if stored.attempts else None
    if before is not None and before.end_time is None:
        attempt = next(one for one in status.attempts if one.number == before.number)
        if attempt.end_time is None:
            return settled
        split = split_attempt(_facts(attempt, settled, status, observed, snapshot), attempt.end_time)
        completed = attempt.reason == Reason.COMPLETED
        return _rounded(settle(settled, split.seconds, attempt.end_time, surviving(attempt.time, completed)))
    pods = [pod for pod in (*observed.pods, *observed.departed) if before is not None and pod.attempt == before.number]
    gap = split_gap(stored.phase, settled.until, _last_end(pods, now), now)
    return _rounded(settle(settled, gap, now, None))


def _take_measurements(attempt: Attempt, gang: Gang, report: StatusReport | None, now: datetime) -> None:
    """Keeps what is known about the time of an attempt in its record, in place: pods go, and operators start anew."""
    words = gang.words
    if words is not None and words.time is not None:
        attempt.time = words.time
    elif report is not None and report.attempt == attempt.number and report.time is not None:
        attempt.time = report.time
    if attempt.scheduled_time is None and not gang.missing and all(pod.scheduled for pod in gang.pods):
        bound = [pod.bound for pod in gang.pods]
        known = [time for time in bound if time is not None]
        attempt.scheduled_time = max(known) if len(known) == len(bound) else attempt.running_time or now


def _facts(
    attempt: Attempt, settled: SettledTime, status: JobStatus, observed: Observed, snapshot: Snapshot
) -> AttemptFacts:
    gang = gang_of(attempt, snapshot.replicas, observed)
    words: TerminationMessage | None = gang.words
    everyone = (*gang.pods, *gang.departed)
    over = len({pod.rank for pod in everyone}) == gang.replicas and all(_end_of(pod) is not None for pod in everyone)
    return AttemptFacts(
        attempt,
        said_last_words=words is not None and words.time is not None,
        stalled_since=_stalled_since(status, observed.report, attempt),
        pods_ended=max((end for pod in everyone if (end := _end_of(pod)) is not None), default=None) if over else None,
        settled_until=settled.until,
    )


def _stalled_since(status: JobStatus, report: StatusReport | None, attempt: Attempt) -> datetime | None:
    if report is not None and report.attempt == attempt.number:
        return report.stall.since if report.stall is not None else None
    condition = condition_of(status, ConditionType.PROGRESSING)
    if condition is not None and condition.status == "False" and condition.reason == Reason.STALLED:
        return condition.last_transition_time
    return None


def _end_of(pod: PodView) -> datetime | None:
    """When the last container of a pod ended; None while one may run."""
    if not pod.containers or any(container.running for container in pod.containers):
        return None
    return max((container.finished for container in pod.containers if container.finished is not None), default=None)


def _last_end(pods: Iterable[PodView], now: datetime) -> datetime | None:
    """When the last of these pods gave its node back; now where one still holds it."""
    ends = [end if (end := _end_of(pod)) is not None else now for pod in pods if pod.scheduled]
    return max(ends, default=None)


def _bill(states: Seconds, settled: SettledTime, active: float, snapshot: Snapshot) -> Usage:
    held = sum(states[name] for name in HOLDING)
    pod_seconds, gpu_seconds = held * snapshot.replicas, held * snapshot.total_gpus
    cost = None
    if snapshot.gpu_hour_price is not None and snapshot.pod_hour_price is not None:
        cost = (gpu_seconds * snapshot.gpu_hour_price + pod_seconds * snapshot.pod_hour_price) / SECONDS_PER_HOUR
    return Usage(
        active_seconds=active,
        pod_seconds=round(pod_seconds, 1),
        gpu_seconds=round(gpu_seconds, 1),
        cost=round(cost, 6) if cost is not None else None,
        currency=snapshot.currency,
        goodput=round(states["productive"] / held, 4) if held > 0 else None,
        states=[
            StateTime.model_validate(
                {"state": name, "seconds": round(seconds, 3), "gpuSeconds": round(seconds * snapshot.total_gpus, 3)}
            )
            for name, seconds in sorted(states.items())
            if round(seconds, 3) > 0
        ],
        settled=settled,
    )


def _rounded(settled: SettledTime) -> SettledTime:
    """To the millisecond, so that a status is as long as it must be."""
    fields: Mapping[str, Any] = settled.model_dump()
    return SettledTime(
        **{name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
    )


def _open_seconds(status: JobStatus, now: datetime) -> float:
    last = status.attempts[-1] if status.attempts else None
    return attempt_seconds(last, now) if last is not None and last.end_time is None else 0.0
