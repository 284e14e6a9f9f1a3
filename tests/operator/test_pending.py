"""Why pods do not start: what Kubernetes says, and what the user reads."""

from __future__ import annotations

from decimal import Decimal

import pytest

from plumbline_operator.decide.pending import explain
from plumbline_operator.model import NodeCapacity, PodEvent, Refusal
from plumbline_operator.pods import ContainerView, PodView


def pod(**fields: object) -> PodView:
    defaults: dict[str, object] = {"node": "node-1", "image": "trainer:1"}
    return PodView(name="p-0", uid="u-0", attempt=1, rank=0, **{**defaults, **fields})  # type: ignore[arg-type]


def unscheduled(message: str) -> PodView:
    return pod(node="", scheduled=False, unschedulable_message=message)


def waiting(reason: str, message: str = "") -> PodView:
    return pod(containers=(ContainerView("trainer", waiting_reason=reason, waiting_message=message),))


def warned(message: str, reason: str = "FailedMount") -> tuple[PodView, PodEvent]:
    return waiting("PodInitializing"), PodEvent("p-0", "u-0", reason, message)


PODS = {
    "gpu": (
        unscheduled("0/3 nodes are available: 1 node(s) had taint {x: }, 2 Insufficient nvidia.com/gpu."),
        "Unschedulable",
        "no node has enough nvidia.com/gpu free for pod p-0: 0/3 nodes",
    ),
    "cpu and memory": (
        unscheduled("0/1 nodes are available: 1 Insufficient memory, 1 Insufficient cpu."),
        "Unschedulable",
        "no node has enough cpu and memory free",
    ),
    "selector": (
        unscheduled("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
        "Unschedulable",
        "no node fits pod p-0: 0/2 nodes are available",
    ),
    "missing claim": (
        unscheduled('persistentvolumeclaim "results" not found'),
        "VolumeFailed",
        'pod p-0 waits for its volume: persistentvolumeclaim "results" not found',
    ),
    "unbound claim": (
        unscheduled("0/2 nodes are available: 2 pod has unbound immediate PersistentVolumeClaims."),
        "VolumeFailed",
        "unbound immediate PersistentVolumeClaims",
    ),
    "image": (
        waiting("ImagePullBackOff", 'Back-off pulling image "trainer:1"'),
        "ImagePullFailed",
        "image trainer:1 of pod p-0 cannot be pulled: Back-off",
    ),
    "bad image name": (waiting("InvalidImageName"), "ImagePullFailed", "cannot be pulled: InvalidImageName"),
    "missing secret": (
        waiting("CreateContainerConfigError", 'secret "token" not found'),
        "ContainerConfigError",
        'container trainer of pod p-0 cannot start: secret "token" not found',
    ),
    "sub-path": (
        waiting("CreateContainerConfigError", "failed to create subPath directory for volumeMount"),
        "VolumeFailed",
        "a volume of pod p-0 cannot be mounted: failed to create subPath",
    ),
    "not seen by the scheduler yet": (pod(node="", scheduled=False), "WaitingForPods", "0 of 1 pods run"),
    "starting": (waiting("PodInitializing"), "WaitingForPods", "0 of 1 pods run"),
    "pre-flight": (
        pod(containers=(ContainerView("preflight", running=True),)),
        "WaitingForPods",
        "0 of 1 pods run; pre-flight checks run in p-0",
    ),
}


@pytest.mark.parametrize("name", PODS)
def test_a_pods_state_explains_it(name: str) -> None:
    view, reason, message = PODS[name]
    found = explain([view], [], [], 1)
    assert found[0] == reason
    assert message in found[1]


WARNINGS = {
    "mount": ("mount failed: exit status 32", "FailedMount", "VolumeFailed"),
    "attach": ("volume is in use by another node", "FailedAttachVolume", "VolumeFailed"),
    "config map": (
        'MountVolume.SetUp failed for volume "reward-0" : configmap "rewards" not found',
        "FailedMount",
        "ContainerConfigError",
    ),
    "key": ("references non-existent config key: reward.py", "FailedMount", "ContainerConfigError"),
    "something else": ("node is slow", "SlowNode", "WaitingForPods"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_an_event_explains_what_the_state_does_not(name: str) -> None:
    message, event, reason = WARNINGS[name]
    view, warning = warned(message, event)
    assert explain([view], [warning], [], 1)[0] == reason


def test_an_old_mount_warning_is_history_once_a_container_ran() -> None:
    _, warning = warned("mount failed")
    view = pod(
        containers=(
            ContainerView("preflight", running=True),
            ContainerView("trainer", waiting_reason="PodInitializing"),
        )
    )
    assert explain([view], [warning], [], 1)[0] == "WaitingForPods"


def test_a_warning_about_another_pod_says_nothing() -> None:
    view, _ = warned("")
    assert explain([view], [PodEvent("p-0", "earlier-pod", "FailedMount", "x")], [], 1)[0] == "WaitingForPods"


REFUSALS = {
    "quota": (403, 'pods "p-0" is forbidden: exceeded quota: small', "QuotaExceeded"),
    "pod security": (403, 'pods "p-0" is forbidden: violates PodSecurity "restricted"', "PodRefused"),
    "invalid": (422, 'Pod "p-0" is invalid: spec.priorityClassName', "PodRefused"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_api_server_refuses_is_told_in_its_words(name: str) -> None:
    code, message, reason = REFUSALS[name]
    found = explain([], [], [Refusal("Pod p-0", code, message)], 1)
    assert found[0] == reason
    assert message in found[1]


GIBI = Decimal(1024**3)
NODES = (
    NodeCapacity("small", {"cpu": Decimal(4), "memory": 8 * GIBI}, {"cpu": Decimal(3), "memory": GIBI}),
    NodeCapacity(
        "large",
        {"cpu": Decimal(16), "memory": 64 * GIBI, "nvidia.com/gpu": Decimal(8)},
        {"cpu": Decimal(2), "memory": 60 * GIBI, "nvidia.com/gpu": Decimal(5)},
    ),
)

SHORTAGES = {
    "more than any node has": (
        {"nvidia.com/gpu": "16"},
        "it asks for 16 of nvidia.com/gpu, and the largest node, large, has 8 in all",
    ),
    "no node has any": ({"amd.com/gpu": "1"}, "it asks for 1 of amd.com/gpu, and no node has any"),
    "others use it": (
        {"nvidia.com/gpu": "4"},
        "it asks for 4 of nvidia.com/gpu, the most that is free on one node is 3 (large): 1 short",
    ),
    "memory in Gi": (
        {"memory": "12Gi", "cpu": "500m"},
        "it asks for 12Gi of memory, the most that is free on one node is 7Gi (small): 5Gi short",
    ),
    "two resources": (
        {"memory": "12Gi", "nvidia.com/gpu": "4"},
        "it asks for 12Gi of memory, the most that is free on one node is 7Gi (small): 5Gi short; "
        "it asks for 4 of nvidia.com/gpu, the most that is free on one node is 3 (large): 1 short",
    ),
    "never all on one node": (
        {"memory": "6Gi", "nvidia.com/gpu": "2"},
        "each resource is free on some node, and all of them on none",
    ),
}


@pytest.mark.parametrize("name", SHORTAGES)
def test_what_is_short_is_told_in_amounts(name: str) -> None:
    requests, said = SHORTAGES[name]
    view = pod(node="", scheduled=False, unschedulable_message="0/2 nodes: 2 Insufficient x.", requests=requests)
    reason, message = explain([view], [], [], 1, NODES)
    assert reason == "Unschedulable"
    assert message == f"no node has enough x free for pod p-0: {said} (0/2 nodes: 2 Insufficient x.)"


def test_without_the_nodes_the_scheduler_alone_speaks() -> None:
    view = pod(node="", scheduled=False, unschedulable_message="2 Insufficient x.", requests={"x": "1"})
    assert explain([view], [], [], 1)[1] == "no node has enough x free for pod p-0: 2 Insufficient x."
