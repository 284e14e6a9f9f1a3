"""Why an attempt ended: ordered classifiers over what the pods say, giving exactly one reason (pure).

Each pod is classified on its own; then the gang's cause is chosen among them. When one rank fails the others lose
their peer and end with 75 shortly after, and a pod that is deleted takes the others down the same way, so a pod that
names its own fault outranks one that was taken away, and that one outranks a pod that merely lost its peers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from plumbline_api.conditions import REASONS, Reason
from plumbline_api.contract import EXIT_REASONS, RETRYABLE_EXIT_CODES, ExitCode, TerminationMessage
from plumbline_operator.pods import ContainerView, PodView

_EVICTED_STATUS = frozenset(
    {"Evicted", "Preempting", "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods"}
)
_EVICTED_DISRUPTION = frozenset(
    {"EvictionByEvictionAPI", "PreemptionByScheduler", "PreemptionByKubeScheduler", "TerminationByKubelet"}
)
_NODE_LOST_STATUS = frozenset({"NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity"})
_NODE_LOST_DISRUPTION = frozenset({"DeletionByTaintManager", "DeletionByPodGC"})
_CANNOT_START = frozenset({"StartError", "ContainerCannotRun"})

_NOT_A_FAILURE = frozenset(
    {Reason.POD_DELETED, Reason.POD_EVICTED, Reason.NODE_LOST, Reason.STOPPED_SAVED, Reason.STOPPED_NOT_SAVED}
)
_PERMANENT_REASONS = frozenset(
    reason
    for code, reason in EXIT_REASONS.items()
    if code not in RETRYABLE_EXIT_CODES | {ExitCode.DONE, ExitCode.STOPPED_SAVED, ExitCode.STOPPED_NOT_SAVED}
)


class Rank(IntEnum):
    """Which finding explains the gang; the lowest wins, among equals the earliest."""

    OWN_FAULT = 0
    TAKEN_AWAY = 1
    FOLLOWED_OTHERS = 2
    STOPPED = 3


@dataclass(frozen=True)
class Finding:
    """Why one pod ended."""

    reason: Reason
    message: str
    rank: Rank
    pod: PodView | None = None
    container: str = ""
    exit_code: int | None = None
    time: datetime | None = None

    @property
    def permanent(self) -> bool:
        """Whether the same would happen again with certainty."""
        return self.reason in _PERMANENT_REASONS

    @property
    def counts(self) -> bool:
        """Whether the attempt counts towards backoffLimit."""
        return self.reason not in _NOT_A_FAILURE


@dataclass(frozen=True)
class _Case:
    pod: PodView
    container: ContainerView | None
    nodes: Mapping[str, bool]

    @property
    def exit_code(self) -> int | None:
        return self.container.exit_code if self.container else None

    @property
    def names_own_fault(self) -> bool:
        """Whether the exit code tells of something that the pod did itself, whatever happened to it besides."""
        return self.exit_code in _OWN_FAULT_CODES


_OWN_FAULT_CODES = frozenset(int(code) for code in ExitCode if code.value in range(64, 75))

Classifier = Callable[[_Case], tuple[Reason, str, Rank] | None]


def _out_of_memory(case: _Case) -> tuple[Reason, str, Rank] | None:
    if case.container is None or case.container.reason != "OOMKilled":
        return None
    message = (
        f"container {case.container.name} used more memory than its limit and was killed;"
        " raise spec.resources.memory or lower training.microBatchSize"
    )
    return Reason.HOST_OUT_OF_MEMORY, message, Rank.OWN_FAULT


def _evicted(case: _Case) -> tuple[Reason, str, Rank] | None:
    pod = case.pod
    if pod.reason not in _EVICTED_STATUS and pod.disruption not in _EVICTED_DISRUPTION:
        return None
    what = pod.message or pod.disruption or pod.reason
    return Reason.POD_EVICTED, f"pod {pod.name} was evicted from node {pod.node or '?'}: {what}", Rank.TAKEN_AWAY


def _node_lost(case: _Case) -> tuple[Reason, str, Rank] | None:
    pod = case.pod
    lost = pod.reason in _NODE_LOST_STATUS or pod.disruption in _NODE_LOST_DISRUPTION
    if not lost and not (pod.stopping and case.nodes.get(pod.node) is False):
        return None
    return Reason.NODE_LOST, f"node {pod.node or '?'} of pod {pod.name} is gone or not ready", Rank.TAKEN_AWAY


def _deleted(case: _Case) -> tuple[Reason, str, Rank] | None:
    if not case.pod.stopping or case.names_own_fault:
        return None
    return Reason.POD_DELETED, f"pod {case.pod.name} was deleted", Rank.TAKEN_AWAY


def _cannot_start(case: _Case) -> tuple[Reason, str, Rank] | None:
    if case.container is None or case.container.reason not in _CANNOT_START:
        return None
    message = f"container {case.container.name} cannot start: {case.container.message}"
    return Reason.CONTAINER_CONFIG_ERROR, message, Rank.OWN_FAULT


def _contract(case: _Case) -> tuple[Reason, str, Rank] | None:
    container = case.container
    if container is None or container.exit_code not in EXIT_REASONS or container.exit_code == ExitCode.DONE:
        return None
    code = ExitCode(container.exit_code)
    reason = EXIT_REASONS[code]
    words = last_words(container)
    if words is not None and code == ExitCode.INFRASTRUCTURE and words.reason == Reason.DISK_FULL:
        reason = Reason.DISK_FULL
    if words is not None and words.message:
        message = words.message
    else:
        message = f"container {container.name} ended with exit code {int(code)}: {REASONS[reason]}"
    if code in (ExitCode.STOPPED_SAVED, ExitCode.STOPPED_NOT_SAVED):
        return reason, message, Rank.STOPPED
    follows = code == ExitCode.INFRASTRUCTURE and reason == Reason.INFRASTRUCTURE_ERROR
    return reason, message, Rank.FOLLOWED_OTHERS if follows else Rank.OWN_FAULT


def _killed(case: _Case) -> tuple[Reason, str, Rank] | None:
    container = case.container
    if container is None or container.exit_code is None:
        return None
    signal = container.signal or (container.exit_code - 128 if 128 < container.exit_code <= 128 + 64 else None)
    if not signal:
        return None
    return Reason.KILLED, f"container {container.name} was killed by signal {signal}", Rank.FOLLOWED_OTHERS


def _unknown(case: _Case) -> tuple[Reason, str, Rank] | None:
    container = case.container
    if container is None:
        what = ": ".join(part for part in (case.pod.reason, case.pod.message) if part) or "without saying why"
        return Reason.UNKNOWN_EXIT, f"pod {case.pod.name} failed: {what}", Rank.FOLLOWED_OTHERS
    words = f": {container.message.strip()}" if container.message.strip() else ""
    message = (
        f"container {container.name} ended with exit code {container.exit_code}, which is not in the contract{words}"
    )
    return Reason.UNKNOWN_EXIT, message, Rank.FOLLOWED_OTHERS


CLASSIFIERS: tuple[Classifier, ...] = (
    _out_of_memory,
    _evicted,
    _node_lost,
    _deleted,
    _cannot_start,
    _contract,
    _killed,
    _unknown,
)
"""The first that answers is right; the order is the specification."""


def diagnose_pod(pod: PodView, nodes: Mapping[str, bool]) -> Finding | None:
    """Why this pod ended or is ending; None while it lives or after it succeeded."""
    if pod.phase == "Succeeded" or (pod.phase != "Failed" and not pod.stopping):
        return None
    container = pod.failed_container
    case = _Case(pod, container, nodes)
    reason, message, rank = next(found for classify in CLASSIFIERS if (found := classify(case)) is not None)
    return Finding(
        reason=reason,
        message=message,
        rank=rank,
        pod=pod,
        container=container.name if container else "",
        exit_code=container.exit_code if container else None,
        time=container.finished if container else None,
    )


def diagnose_gang(pods: list[PodView], nodes: Mapping[str, bool]) -> Finding | None:
    """The one cause for which the attempt ended; None if none of its pods did badly."""
    findings = [finding for pod in pods if (finding := diagnose_pod(pod, nodes)) is not None]
    latest = datetime.max.replace(tzinfo=UTC)
    return min(findings, key=lambda finding: (finding.rank, finding.time or latest), default=None)


def last_words(container: ContainerView) -> TerminationMessage | None:
    """The trainer's termination message; None if it left none that can be read."""
    if not container.message:
        return None
    try:
        return TerminationMessage.model_validate_json(container.message)
    except ValueError:
        return None
