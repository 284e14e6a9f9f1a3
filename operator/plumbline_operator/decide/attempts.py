"""One attempt: what its pods are to be, how it ended, and when the next may start (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from plumbline_api.conditions import Reason
from plumbline_api.contract import TerminationMessage
from plumbline_api.run_policy import RunPolicy
from plumbline_api.status import Attempt, Failure, JobStatus
from plumbline_operator.decide.diagnosis import Evidence, Finding, Rank, diagnose_gang, last_words
from plumbline_operator.decide.node_loss import node_loss, on_lost_node
from plumbline_operator.decide.restart_rules import Answer, Response
from plumbline_operator.model import Delete, Observed
from plumbline_operator.pods import PodView
from plumbline_operator.resources import PODS, TRAINER_ROLE

ATTEMPTS_KEPT = 5
LOG_TAIL_LIMIT = 8192
LOST_POD_SECONDS = 30
"""A pod that outlives its grace period by so much is on a node that does not answer, and is deleted without it."""
UNCONFIRMED_DELETION_SECONDS = 5.0
"""After which a pod is looked at again that was told to stop and was not seen to."""


@dataclass(frozen=True)
class Gang:
    """The pods of one attempt."""

    attempt: Attempt
    replicas: int
    pods: tuple[PodView, ...]
    departed: tuple[PodView, ...] = ()
    """Pods of the attempt that are gone, in their last state."""

    @property
    def missing(self) -> list[int]:
        """Ranks without a pod."""
        present = {pod.rank for pod in self.pods}
        return [rank for rank in range(self.replicas) if rank not in present]

    @property
    def all_run(self) -> bool:
        """Whether every pod has got past its pre-flight."""
        return not self.missing and all(pod.phase in ("Running", "Succeeded") for pod in self.pods)

    @property
    def succeeded(self) -> bool:
        return not self.missing and all(pod.phase == "Succeeded" for pod in self.pods)

    @property
    def leader(self) -> PodView | None:
        """Rank 0, which reports for all."""
        return next((pod for pod in self.pods if pod.rank == 0), None)

    @property
    def words(self) -> TerminationMessage | None:
        """Last words of rank 0, once it has ended, even if it is gone."""
        leader = self.leader or next((pod for pod in self.departed if pod.rank == 0), None)
        trainer = leader.trainer if leader else None
        return last_words(trainer) if trainer is not None and trainer.terminated else None

    @property
    def running_since(self) -> datetime | None:
        """When the last of the trainers started."""
        starts = [pod.trainer.started for pod in self.pods if pod.trainer and pod.trainer.started]
        return max(starts) if self.all_run and len(starts) == len(self.pods) else None


def gang_of(attempt: Attempt, replicas: int, observed: Observed) -> Gang:
    def ours(pods: Sequence[PodView]) -> tuple[PodView, ...]:
        return tuple(sorted((pod for pod in pods if pod.attempt == attempt.number), key=lambda pod: pod.rank))

    return Gang(attempt, replicas, ours(observed.pods), ours(observed.departed))


def cause_of_end(gang: Gang, observed: Observed) -> Finding | None:
    """Why the attempt is over, or None while it goes on.

    A pod that never ran and is missing is only not there yet: it is created (again). Once all pods ran, a missing pod
    was deleted.
    """
    finding = diagnose_gang(gang.pods, Evidence.of(observed))
    if finding is None and gang.attempt.running_time is not None and gang.missing:
        return Finding(
            reason=Reason.POD_DELETED,
            message=f"the pod of rank {gang.missing[0]} was deleted",
            rank=Rank.TAKEN_AWAY,
        )
    return finding


def failure_of(finding: Finding, attempt: int, observed: Observed, now: datetime) -> Failure:
    """The record of a failure that stays in the status."""
    pod = finding.pod
    log = (observed.log_tails.get(pod.name) if pod else None) or finding.details
    return Failure(
        reason=finding.reason,
        message=finding.message[:4096],
        role=TRAINER_ROLE,
        pod=pod.name if pod else "",
        node=pod.node if pod else "",
        attempt=attempt,
        exit_code=finding.exit_code,
        log_tail=log[-LOG_TAIL_LIMIT:],
        time=finding.time or now,
    )


def backoff_seconds(policy: RunPolicy, failures: int) -> float:
    """Wait after so many failures that count (at least 1): the initial wait, doubled with each, up to the longest."""
    return min(policy.backoff.max_seconds, policy.backoff.initial_seconds * 2 ** min(failures - 1, 30))


def next_start(
    policy: RunPolicy, response: Response, status: JobStatus, attempt: Attempt, uid: str, now: datetime
) -> datetime:
    """When the next attempt may start after the last one, which is closed.

    After a failure: the backoff, which grows with every failure that counts and with every attempt in a row whose pods
    never came together. After a disruption, which is nobody's fault: at once, but not sooner than the initial backoff
    after the last start, so that a cluster that keeps taking pods away is not flooded with new ones.
    """
    if response.answer == Answer.IGNORE:
        earliest = (attempt.start_time or now) + timedelta(seconds=policy.backoff.initial_seconds)
        return max(now, earliest)
    in_vain = _attempts_in_vain(status.attempts)
    wait = backoff_seconds(policy, max(status.failures, in_vain, 1))
    if in_vain:
        # Two gangs that each hold a part of the same nodes must not come back at the same time.
        wait += wait * _fraction(uid, attempt.number)
    return now + timedelta(seconds=round(wait))


def _attempts_in_vain(attempts: Sequence[Attempt]) -> int:
    """How many of the last attempts in a row ended because their pods did not come together."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.reason != Reason.PENDING_TIMEOUT:
            break
        count += 1
    return count


def _fraction(uid: str, number: int) -> float:
    """In [0, 1): the same for the same attempt, whenever it is asked for."""
    digest = hashlib.sha256(f"{uid}/{number}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32


def unfinished(pods: Sequence[PodView]) -> list[PodView]:
    """Pods that may still run, and write: the next attempt must wait for them."""
    return [pod for pod in pods if not pod.finished]


@dataclass(frozen=True)
class Stopping:
    """How pods are stopped."""

    nodes: Mapping[str, bool]
    """Whether a node is ready, for those that were asked about."""
    node_lost_seconds: int
    grace_seconds: int | None = None
    """Longer than the pods' own grace period; None for theirs."""

    def delete(self, pods: Sequence[PodView], now: datetime) -> list[Delete]:
        """Deletes every pod that is not finished: without its grace period where its node does not answer."""
        steps = []
        for pod in unfinished(pods):
            overdue = pod.deletion_time is not None and now >= pod.deletion_time + timedelta(seconds=LOST_POD_SECONDS)
            if overdue or on_lost_node(pod, self.nodes, self.node_lost_seconds, now):
                steps.append(Delete(PODS, pod.name, pod.uid, grace_seconds=0))
            elif pod.deletion_time is None:
                steps.append(Delete(PODS, pod.name, pod.uid, grace_seconds=self.grace_seconds))
        return steps

    def check_after(self, pods: Sequence[PodView], now: datetime) -> float | None:
        """Seconds until the pods that are being stopped are to be looked at again; None if none is left.

        For one that is stopping that is when it counts as lost. One that does not stop yet is only now asked to:
        whether the request arrived, and whether anybody tells that the pod is gone, is not to be relied on.
        """
        times = [pod.deletion_time for pod in unfinished(pods) if pod.deletion_time is not None]
        waits = [max(1.0, (min(times) - now).total_seconds() + LOST_POD_SECONDS)] if times else []
        if len(times) < len(unfinished(pods)):
            waits.append(UNCONFIRMED_DELETION_SECONDS)
        if (left := node_loss(unfinished(pods), self.nodes, self.node_lost_seconds, now)[1]) is not None:
            waits.append(left)
        return min(waits, default=None)
