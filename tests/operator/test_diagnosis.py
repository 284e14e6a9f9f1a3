"""Why an attempt ended: one reason, whatever the pods look like."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from plumbline_operator.decide.diagnosis import (
    EVENT_SECONDS,
    SETTLE_SECONDS,
    Evidence,
    Finding,
    diagnose_gang,
    diagnose_pod,
    seconds_to_settle,
)
from plumbline_operator.model import PodEvent
from plumbline_operator.pods import ContainerView, PodView

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def pod(
    rank: int = 0, *, code: int | None = None, container: str = "trainer", at: int = 0, **fields: object
) -> PodView:
    """A pod whose container ended with a code `at` seconds past noon; failed unless the fields say otherwise."""
    details = {name: fields.pop(name) for name in ("words", "why", "signal") if name in fields}
    containers: tuple[ContainerView, ...] = ()
    if code is not None:
        ended = ContainerView(
            container,
            exit_code=code,
            message=str(details.get("words", "")),
            reason=str(details.get("why", "")),
            signal=details.get("signal"),  # type: ignore[arg-type]
            finished=NOON + timedelta(seconds=at),
        )
        containers = (ended,)
    defaults: dict[str, object] = {"phase": "Failed", "node": "node-1", "containers": containers}
    return PodView(name=f"pod-{rank}", uid=f"uid-{rank}", attempt=1, rank=rank, **{**defaults, **fields})  # type: ignore[arg-type]


def words(reason: str, message: str) -> str:
    return json.dumps({"contractVersion": "v1", "reason": reason, "message": message})


STOPPING = {"deletion_time": NOON}

CASES = {
    "code 64": (pod(code=64), "ConfigError"),
    "code 65 of the pre-flight": (pod(code=65, container="preflight"), "DataError"),
    "code 66": (pod(code=66), "ModelError"),
    "code 70": (pod(code=70), "TrainerBug"),
    "code 71": (pod(code=71), "GpuOutOfMemory"),
    "code 72": (pod(code=72), "Diverged"),
    "code 73": (pod(code=73), "RewardFunctionError"),
    "code 74": (pod(code=74), "CheckpointUnreadable"),
    "code 75": (pod(code=75), "InfrastructureError"),
    "code 75, the disk is full": (pod(code=75, words=words("DiskFull", "no space left")), "DiskFull"),
    "code 75, a peer is lost": (pod(code=75, words=words("LostPeer", "reset")), "LostPeer"),
    "code 75, a collective timed out": (pod(code=75, words=words("CollectiveTimeout", "late")), "CollectiveTimeout"),
    "code 75, no memory": (pod(code=75, words=words("HostOutOfMemory", "refused")), "HostOutOfMemory"),
    "code 75 that claims to have diverged": (pod(code=75, words=words("Diverged", "no")), "InfrastructureError"),
    "code 73, too slow": (pod(code=73, words=words("RewardFunctionTimeout", "1 s")), "RewardFunctionTimeout"),
    "code 70 that claims to be a full disk": (pod(code=70, words=words("DiskFull", "no")), "TrainerBug"),
    "code 85": (pod(code=85), "StoppedSaved"),
    "code 86": (pod(code=86), "StoppedNotSaved"),
    "memory limit": (pod(code=137, why="OOMKilled"), "HostOutOfMemory"),
    "memory limit while it is deleted": (pod(code=137, why="OOMKilled", **STOPPING), "HostOutOfMemory"),
    "SIGKILL": (pod(code=137), "Killed"),
    "signal reported by the runtime": (pod(code=1, signal=11), "Killed"),
    "segmentation fault": (pod(code=139), "Killed"),
    "any other code": (pod(code=3), "UnknownExit"),
    "no container ever ran": (pod(reason="SomethingNew", message="by the node"), "UnknownExit"),
    "evicted by the kubelet": (pod(reason="Evicted", message="low on memory"), "PodEvicted"),
    "no GPU is left on its node": (
        pod(reason="OutOfnvidia.com/gpu", message="Node didn't have enough resource: nvidia.com/gpu"),
        "PodEvicted",
    ),
    "no CPU is left on its node": (pod(reason="OutOfcpu"), "PodEvicted"),
    "its devices cannot be had": (pod(reason="UnexpectedAdmissionError", message="no healthy device"), "PodEvicted"),
    "evicted by the API": (pod(code=85, disruption="EvictionByEvictionAPI", **STOPPING), "PodEvicted"),
    "preempted": (pod(disruption="PreemptionByScheduler", **STOPPING), "Preempted"),
    "preempted by the kubelet": (pod(reason="Preempting", message="for a critical pod"), "Preempted"),
    "preempted after it had diverged": (
        pod(code=72, disruption="PreemptionByScheduler", **STOPPING),
        "Diverged",
    ),
    "wrote more than it may": (
        pod(reason="Evicted", message='Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". '),
        "DiskFull",
    ),
    "more temporary storage than its limit": (
        pod(reason="Evicted", message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "),
        "DiskFull",
    ),
    "its container wrote more than its limit": (
        pod(reason="Evicted", message='Container trainer exceeded its local ephemeral storage limit "1Gi". '),
        "DiskFull",
    ),
    "its node ran short of storage": (
        pod(reason="Evicted", message="The node was low on resource: ephemeral-storage. "),
        "PodEvicted",
    ),
    "refused by the node": (pod(reason="OutOfcpu"), "PodEvicted"),
    "node shut down": (pod(code=137, reason="Terminated"), "NodeLost"),
    "taint of a lost node": (
        pod(phase="Running", node="dead", disruption="DeletionByTaintManager", **STOPPING),
        "NodeLost",
    ),
    "taint of a node that nobody may read": (
        pod(phase="Running", node="unknown", disruption="DeletionByTaintManager", **STOPPING),
        "NodeLost",
    ),
    "taint of a node that is ready": (
        pod(phase="Running", disruption="DeletionByTaintManager", **STOPPING),
        "PodEvicted",
    ),
    "deleted, node not ready": (pod(phase="Running", node="dead", **STOPPING), "NodeLost"),
    "deleted, node unknown": (pod(phase="Running", **STOPPING), "PodDeleted"),
    "deleted, has saved": (pod(code=85, **STOPPING), "PodDeleted"),
    "deleted, but diverged first": (pod(code=72, **STOPPING), "Diverged"),
    "command not found": (pod(code=128, why="StartError", words="exec: python: not found"), "ContainerConfigError"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_pod_has_one_reason(name: str) -> None:
    case, reason = CASES[name]
    finding = diagnose_pod(case, Evidence(nodes={"dead": False, "node-1": True}))
    assert finding is not None
    assert finding.reason == reason
    assert finding.message


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded"])
def test_a_pod_that_lives_or_succeeded_has_none(phase: str) -> None:
    assert diagnose_pod(pod(phase=phase), Evidence()) is None


def test_the_trainers_own_words_are_the_message() -> None:
    finding = diagnose_pod(pod(code=65, words=words("DataError", "train.jsonl line 7: not JSON")), Evidence())
    assert finding is not None
    assert finding.message == "train.jsonl line 7: not JSON"


def test_words_that_are_no_json_are_shown_where_nothing_better_is_known() -> None:
    finding = diagnose_pod(pod(code=3, words="panic: at the disco"), Evidence())
    assert finding is not None
    assert "panic: at the disco" in finding.message


GANGS = {
    "the rank that diverged, not its peers": ([pod(0, code=75, at=1), pod(1, code=72, at=2)], "pod-1", "Diverged"),
    "the first of two faults": ([pod(0, code=65, at=2), pod(1, code=73, at=1)], "pod-1", "RewardFunctionError"),
    "the deleted pod, not its peers": (
        [pod(0, code=75, at=1), pod(1, phase="Running", **STOPPING)],
        "pod-1",
        "PodDeleted",
    ),
    "memory before eviction": (
        [pod(0, reason="Evicted"), pod(1, code=137, why="OOMKilled", at=9)],
        "pod-1",
        "HostOutOfMemory",
    ),
    "the earliest of those that lost their peers": (
        [pod(0, code=75, at=5), pod(1, code=75, at=3)],
        "pod-1",
        "InfrastructureError",
    ),
    "a full disk is a cause, a lost peer is not": (
        [pod(0, code=75, at=1), pod(1, code=75, at=2, words=words("DiskFull", "full"))],
        "pod-1",
        "DiskFull",
    ),
    "a crash before a stop on request": ([pod(0, code=85, at=1), pod(1, code=137, at=2)], "pod-1", "Killed"),
}


@pytest.mark.parametrize("name", GANGS)
def test_a_gang_has_the_reason_of_the_pod_that_caused_it(name: str) -> None:
    pods, culprit, reason = GANGS[name]
    finding = diagnose_gang(pods, Evidence())
    assert finding is not None and finding.pod is not None
    assert (finding.pod.name, finding.reason) == (culprit, reason)


@pytest.mark.parametrize(
    ("code", "permanent", "counts"),
    [(64, True, True), (70, False, True), (74, True, True), (75, False, True), (85, False, False), (86, False, False)],
)
def test_what_is_repeated_and_what_counts(code: int, permanent: bool, counts: bool) -> None:
    finding = diagnose_pod(pod(code=code), Evidence())
    assert isinstance(finding, Finding)
    assert (finding.permanent, finding.counts) == (permanent, counts)


EVENTS = {
    "the scheduler's event": ("Preempted", "Preempted by team/important on node node-1", "Preempted"),
    "the taint manager's event": ("TaintManagerEviction", "Marking for deletion Pod team/pod-0", "PodEvicted"),
    "any other event": ("Killing", "Stopping container trainer", "PodDeleted"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_tells_why_a_pod_was_deleted(name: str) -> None:
    event, message, reason = EVENTS[name]
    case = pod(phase="Running", **STOPPING)
    evidence = Evidence(nodes={"node-1": True}, events=[PodEvent("pod-0", "uid-0", event, message)])
    finding = diagnose_pod(case, evidence)
    assert finding is not None
    assert finding.reason == reason


def test_an_event_about_an_earlier_pod_of_that_name_tells_nothing() -> None:
    evidence = Evidence(events=[PodEvent("pod-0", "earlier", "Preempted", "")])
    finding = diagnose_pod(pod(phase="Running", **STOPPING), evidence)
    assert finding is not None
    assert finding.reason == "PodDeleted"


def settling(pods: list[PodView], after: float) -> float:
    finding = diagnose_gang(pods, Evidence())
    assert finding is not None
    return seconds_to_settle(finding, pods, NOON + timedelta(seconds=after))


def test_a_lost_peer_is_waited_for_while_it_may_still_show_its_cause() -> None:
    lost = pod(0, code=75, words=words("LostPeer", "reset"))
    lives = pod(1, phase="Running")
    assert settling([lost, lives], 1) == SETTLE_SECONDS - 1
    assert settling([lost, lives], SETTLE_SECONDS) == 0
    assert settling([lost, pod(1, code=75, at=1)], 1) == 0, "nobody is left who could show another one"
    assert settling([lost, lives], -3600) == 0, "a node whose clock is ahead makes nobody wait"


def test_a_deletion_is_waited_on_until_its_event_may_be_there() -> None:
    deleted = pod(phase="Running", deletion_time=NOON + timedelta(seconds=30), deletion_requested=NOON)
    assert settling([deleted], 0.5) == EVENT_SECONDS - 0.5
    assert settling([deleted], EVENT_SECONDS) == 0


@pytest.mark.parametrize("case", [pod(code=70), pod(code=137), pod(code=72)])
def test_a_fault_of_its_own_is_certain_at_once(case: PodView) -> None:
    assert settling([case, pod(1, phase="Running")], 0) == 0
