"""Why an attempt ended: ordered classifiers over what the pods say, giving exactly one reason (pure).

Each pod is classified on its own, by its status, its container's exit code and last words, events about it, its node,
and the last lines of its log, in the order of `CLASSIFIERS`. Then the gang's cause is chosen among them: when one rank
fails the others lose their peer and end shortly after, and a pod that is deleted takes the others down the same way, so
a pod that names its own fault outranks one that was taken away, and so on (`Rank`).

What happened to a gang reaches the API server bit by bit: a rank that lost its peer may be seen a second before the
peer that was killed, and a deletion before the event that tells of a preemption. `seconds_to_settle` says how long to
wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from plumbline_api.conditions import REASONS, Reason
from plumbline_api.contract import EXIT_REASONS, PRECISE_REASONS, RETRYABLE_EXIT_CODES, ExitCode, TerminationMessage
from plumbline_operator.decide.log_signs import sign_in_log
from plumbline_operator.model import Observed, PodEvent
from plumbline_operator.pods import ContainerView, PodView
from plumbline_operator.untrusted import read_last_words

_PREEMPTED_STATUS = frozenset({"Preempting", "Preempted"})
_PREEMPTED_DISRUPTION = frozenset(
    {"PreemptionByScheduler", "PreemptionByKubeScheduler", "WorkloadEvictedDueToPreempted"}
)
_PREEMPTED_EVENTS = frozenset({"Preempted", "Preempting"})
_EVICTED_STATUS = frozenset({"Evicted", "UnexpectedAdmissionError"})
_OUT_OF = "OutOf"
"""How the kubelet's reason begins for a pod that it has no room for: the name of the resource follows, such as
nvidia.com/gpu."""
_EVICTED_DISRUPTION = frozenset({"EvictionByEvictionAPI", "TerminationByKubelet"})
_EVICTED_BY_QUEUE = "WorkloadEvictedDueTo"
"""How the reasons of Kueue's condition TerminationTarget begin."""
_NODE_LOST_STATUS = frozenset({"NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity"})
_NODE_LOST_DISRUPTION = frozenset({"DeletionByPodGC"})
_TAINTED_DISRUPTION = frozenset({"DeletionByTaintManager"})
_TAINTED_EVENTS = frozenset({"TaintManagerEviction"})
_CANNOT_START = frozenset({"StartError", "ContainerCannotRun"})
_OWN_STORAGE = re.compile(
    r"ephemeral local storage usage exceeds the total limit|Usage of EmptyDir volume .* exceeds the limit"
    r"|exceeded its local ephemeral storage limit"
)
"""The kubelet's words for a pod that wrote more than it may, rather than one whose node ran short."""

_NOT_A_FAILURE = frozenset(
    {
        Reason.POD_DELETED,
        Reason.POD_EVICTED,
        Reason.PREEMPTED,
        Reason.NODE_LOST,
        Reason.STOPPED_SAVED,
        Reason.STOPPED_NOT_SAVED,
    }
)
_STOPPED_CODES = frozenset({ExitCode.STOPPED_SAVED, ExitCode.STOPPED_NOT_SAVED})
_OWN_FAULT_CODES = frozenset(int(code) for code in ExitCode if code.value in range(64, 75))
_PERMANENT_REASONS = frozenset(
    reason
    for code, exit_reason in EXIT_REASONS.items()
    if code not in RETRYABLE_EXIT_CODES | _STOPPED_CODES | {ExitCode.DONE}
    for reason in {exit_reason, *PRECISE_REASONS.get(code, ())}
)

SETTLE_SECONDS = 3.0
"""How much later than its consequence a cause may be seen: the kubelets of two nodes report about once a second."""
EVENT_SECONDS = 2.0
"""How much later than a deletion the event that explains it may be seen."""


class Rank(IntEnum):
    """Which finding explains the gang; the lowest wins, among equals the earliest."""

    OWN_FAULT = 0
    TAKEN_AWAY = 1
    UNEXPLAINED = 2
    """It ended by itself or by a signal and nobody knows why."""
    WAITED_FOR_OTHERS = 3
    FOLLOWED_OTHERS = 4
    STOPPED = 5


@dataclass(frozen=True)
class Evidence:
    """What is known besides the pods themselves."""

    nodes: Mapping[str, bool] = field(default_factory=dict)
    """Whether a node is ready, for those that were asked about."""
    logs: Mapping[str, str] = field(default_factory=dict)
    """Last lines of the failed container, by pod name."""
    events: Sequence[PodEvent] = ()

    @classmethod
    def of(cls, observed: Observed) -> Evidence:
        return cls(observed.nodes, observed.log_tails, observed.endings)


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
    details: str = ""
    """Stands in for the log's last lines where there are none."""

    @property
    def permanent(self) -> bool:
        """Whether the same would happen again with certainty."""
        return self.reason in _PERMANENT_REASONS

    @property
    def counts(self) -> bool:
        """Whether the attempt counts towards backoffLimit."""
        return self.reason not in _NOT_A_FAILURE


Verdict = tuple[Reason, str, Rank]


@dataclass(frozen=True)
class _Case:
    pod: PodView
    container: ContainerView | None
    words: TerminationMessage | None
    node_ready: bool | None
    log: str
    events: tuple[PodEvent, ...]

    @property
    def exit_code(self) -> int | None:
        return self.container.exit_code if self.container else None

    @property
    def names_own_fault(self) -> bool:
        """Whether it ended by itself, whatever happened to it besides: its exit code says so, or it was deleted only
        afterwards."""
        return self.exit_code in _OWN_FAULT_CODES or self._ended_before_deletion

    @property
    def _ended_before_deletion(self) -> bool:
        finished, requested = self.container.finished if self.container else None, self.pod.deletion_requested
        return finished is not None and requested is not None and finished < requested

    @property
    def precise_reason(self) -> Reason | None:
        """What the last words say more precisely than the exit code, where that code allows it."""
        if self.words is None or self.exit_code is None or self.exit_code not in EXIT_REASONS:
            return None
        allowed = PRECISE_REASONS.get(ExitCode(self.exit_code), frozenset())
        return Reason(self.words.reason) if self.words.reason in allowed else None

    @property
    def is_vague(self) -> bool:
        """Whether container and last words leave the cause open."""
        if self.exit_code in (ExitCode.TRAINER_BUG, ExitCode.INFRASTRUCTURE):
            return self.precise_reason is None
        return self.exit_code is not None and self.exit_code not in EXIT_REASONS

    def event(self, reasons: frozenset[str]) -> PodEvent | None:
        return next((event for event in self.events if event.reason in reasons), None)


Classifier = Callable[[_Case], Verdict | None]


def _out_of_memory(case: _Case) -> Verdict | None:
    if case.container is None or case.container.reason != "OOMKilled":
        return None
    limit = case.pod.requests.get("memory")
    message = (
        f"container {case.container.name} used more memory than its limit{f' of {limit}' if limit else ''} and was"
        " killed; raise spec.resources.memory or lower training.microBatchSize"
    )
    return Reason.HOST_OUT_OF_MEMORY, message, Rank.OWN_FAULT


def _own_storage(case: _Case) -> Verdict | None:
    pod = case.pod
    if pod.reason != "Evicted" or not _OWN_STORAGE.search(pod.message):
        return None
    return Reason.DISK_FULL, f"pod {pod.name} wrote more than it may: {pod.message}", Rank.OWN_FAULT


def _preempted(case: _Case) -> Verdict | None:
    pod = case.pod
    event = case.event(_PREEMPTED_EVENTS)
    told = pod.reason in _PREEMPTED_STATUS or pod.disruption in _PREEMPTED_DISRUPTION or event is not None
    if not told or case.names_own_fault:
        return None
    what = pod.disruption_message or pod.message or (event.message if event else "")
    message = f"pod {pod.name} gave way to a pod of higher priority on node {pod.node or '?'}"
    return Reason.PREEMPTED, f"{message}: {what}" if what else message, Rank.TAKEN_AWAY


def _evicted(case: _Case) -> Verdict | None:
    pod = case.pod
    by_queue = pod.disruption.startswith(_EVICTED_BY_QUEUE)
    by_kubelet = pod.reason in _EVICTED_STATUS or pod.reason.startswith(_OUT_OF)
    if not by_kubelet and pod.disruption not in _EVICTED_DISRUPTION and not by_queue:
        return None
    if case.names_own_fault:
        return None
    what = pod.message or pod.disruption_message or pod.disruption or pod.reason
    return Reason.POD_EVICTED, f"pod {pod.name} was evicted from node {pod.node or '?'}: {what}", Rank.TAKEN_AWAY


def _node_lost(case: _Case) -> Verdict | None:
    pod = case.pod
    tainted = pod.disruption in _TAINTED_DISRUPTION and case.node_ready is not True
    lost = pod.reason in _NODE_LOST_STATUS or pod.disruption in _NODE_LOST_DISRUPTION or tainted
    if not lost and not (pod.stopping and case.node_ready is False):
        return None
    return Reason.NODE_LOST, f"node {pod.node or '?'} of pod {pod.name} is gone or not ready", Rank.TAKEN_AWAY


def _tainted(case: _Case) -> Verdict | None:
    pod = case.pod
    event = case.event(_TAINTED_EVENTS)
    if (event is None and pod.disruption not in _TAINTED_DISRUPTION) or case.names_own_fault:
        return None
    message = f"pod {pod.name} was evicted: node {pod.node or '?'} got a taint that it does not tolerate"
    return Reason.POD_EVICTED, message, Rank.TAKEN_AWAY


def _deleted(case: _Case) -> Verdict | None:
    if not case.pod.stopping or case.names_own_fault:
        return None
    return Reason.POD_DELETED, f"pod {case.pod.name} was deleted", Rank.TAKEN_AWAY


def _cannot_start(case: _Case) -> Verdict | None:
    if case.container is None or case.container.reason not in _CANNOT_START:
        return None
    message = f"container {case.container.name} cannot start: {case.container.message}"
    return Reason.CONTAINER_CONFIG_ERROR, message, Rank.OWN_FAULT


def _log_says(case: _Case) -> Verdict | None:
    """Only where container and last words leave the cause open: a log has many words."""
    if case.container is None or not case.is_vague:
        return None
    found = sign_in_log(f"{case.log}\n{case.words.message if case.words else case.container.message}")
    if found is None:
        return None
    sign, line = found
    ending = f"container {case.container.name} ended with exit code {case.exit_code}"
    return sign.reason, f"{sign.meaning} ({ending}): {line}", _RANKS.get(sign.reason, Rank.OWN_FAULT)


def _contract(case: _Case) -> Verdict | None:
    container = case.container
    if container is None or container.exit_code not in EXIT_REASONS or container.exit_code == ExitCode.DONE:
        return None
    code = ExitCode(container.exit_code)
    reason = case.precise_reason or EXIT_REASONS[code]
    if case.words is not None and case.words.message:
        message = case.words.message
    else:
        message = f"container {container.name} ended with exit code {int(code)}: {REASONS[reason]}"
    if code in _STOPPED_CODES:
        return reason, message, Rank.STOPPED
    return reason, message, _RANKS.get(reason, Rank.OWN_FAULT)


_RANKS = {
    Reason.COLLECTIVE_TIMEOUT: Rank.WAITED_FOR_OTHERS,
    Reason.LOST_PEER: Rank.FOLLOWED_OTHERS,
    Reason.INFRASTRUCTURE_ERROR: Rank.FOLLOWED_OTHERS,
}
"""What a pod that gives this reason says of itself, where that is not its own fault."""


def _killed(case: _Case) -> Verdict | None:
    container = case.container
    if container is None or container.exit_code is None:
        return None
    signal = container.signal or (container.exit_code - 128 if 128 < container.exit_code <= 128 + 64 else None)
    if not signal:
        return None
    return Reason.KILLED, f"container {container.name} was killed by signal {signal}", Rank.UNEXPLAINED


def _unknown(case: _Case) -> Verdict | None:
    container = case.container
    if container is None:
        what = ": ".join(part for part in (case.pod.reason, case.pod.message) if part) or "without saying why"
        return Reason.UNKNOWN_EXIT, f"pod {case.pod.name} failed: {what}", Rank.UNEXPLAINED
    words = f": {container.message.strip()}" if container.message.strip() else ""
    message = (
        f"container {container.name} ended with exit code {container.exit_code}, which is not in the contract{words}"
    )
    return Reason.UNKNOWN_EXIT, message, Rank.UNEXPLAINED


CLASSIFIERS: tuple[Classifier, ...] = (
    _out_of_memory,
    _own_storage,
    _preempted,
    _evicted,
    _node_lost,
    _tainted,
    _deleted,
    _cannot_start,
    _log_says,
    _contract,
    _killed,
    _unknown,
)
"""The first that answers is right; the order is the specification."""


def diagnose_pod(pod: PodView, evidence: Evidence) -> Finding | None:
    """Why this pod ended or is ending; None while it lives or after it succeeded."""
    if pod.phase == "Succeeded" or (pod.phase != "Failed" and not pod.stopping):
        return None
    container = pod.failed_container
    case = _Case(
        pod,
        container,
        last_words(container) if container else None,
        evidence.nodes.get(pod.node),
        evidence.logs.get(pod.name, ""),
        tuple(event for event in evidence.events if event.pod_uid == pod.uid),
    )
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


def diagnose_gang(pods: Sequence[PodView], evidence: Evidence) -> Finding | None:
    """The one cause for which the attempt ended; None if none of its pods did badly."""
    findings = [finding for pod in pods if (finding := diagnose_pod(pod, evidence)) is not None]
    latest = datetime.max.replace(tzinfo=UTC)
    return min(findings, key=lambda finding: (finding.rank, finding.time or latest), default=None)


def seconds_to_settle(finding: Finding, pods: Sequence[PodView], now: datetime) -> float:
    """How much longer a better cause may still be seen; 0 when the finding stands.

    Clocks of nodes differ: a time that lies ahead by more than the wait itself is no reason to wait longer.
    """
    pod = finding.pod
    if finding.reason == Reason.POD_DELETED and pod is not None and pod.deletion_requested is not None:
        return _left(pod.deletion_requested, EVENT_SECONDS, now)
    others_live = any(not other.finished for other in pods if pod is None or other.uid != pod.uid)
    if finding.rank in (Rank.WAITED_FOR_OTHERS, Rank.FOLLOWED_OTHERS) and others_live and finding.time is not None:
        return _left(finding.time, SETTLE_SECONDS, now)
    return 0.0


def _left(since: datetime, seconds: float, now: datetime) -> float:
    left = (since + timedelta(seconds=seconds) - now).total_seconds()
    return left if 0 < left <= 2 * seconds else 0.0


def last_words(container: ContainerView) -> TerminationMessage | None:
    """The trainer's termination message; None if it left none that can be read."""
    if not container.message:
        return None
    try:
        return read_last_words(container.message)
    except ValueError:
        return None
