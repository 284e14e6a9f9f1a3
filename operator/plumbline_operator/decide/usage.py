"""What the job cost so far (pure)."""

from __future__ import annotations

from datetime import datetime

from plumbline_api.status import Attempt, JobStatus, Usage
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


def update_usage(status: JobStatus, snapshot: Snapshot, now: datetime) -> None:
    """Recomputes the bill, in place, from the time of the ended attempts and of the open one."""
    seconds = active_seconds(status, now)
    pod_seconds = seconds * snapshot.replicas
    gpu_seconds = seconds * snapshot.total_gpus
    cost = None
    if snapshot.gpu_hour_price is not None and snapshot.pod_hour_price is not None:
        cost = (gpu_seconds * snapshot.gpu_hour_price + pod_seconds * snapshot.pod_hour_price) / SECONDS_PER_HOUR
    status.usage = Usage(
        active_seconds=ended_seconds(status),
        pod_seconds=round(pod_seconds, 1),
        gpu_seconds=round(gpu_seconds, 1),
        cost=round(cost, 6) if cost is not None else None,
    )


def close_attempt(status: JobStatus, attempt: Attempt, now: datetime) -> None:
    """Ends an attempt and moves its running time into the sum of the ended ones, in place."""
    attempt.end_time = now
    usage = status.usage or Usage()
    usage.active_seconds = round(usage.active_seconds + attempt_seconds(attempt, now), 3)
    status.usage = usage


def _open_seconds(status: JobStatus, now: datetime) -> float:
    last = status.attempts[-1] if status.attempts else None
    return attempt_seconds(last, now) if last is not None and last.end_time is None else 0.0
