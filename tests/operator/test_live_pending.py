"""Pods that do not start: the condition says why, in plain words, within five seconds of Kubernetes knowing it."""

from __future__ import annotations

import time

import pytest

from tests.operator.job_documents import preference_job
from tests.operator.live_cluster import Namespace, OperatorProcess, eventually
from tests.operator.simulated_kubelet import PodLife

pytestmark = pytest.mark.control_plane

SECONDS_TO_TELL = 5.0

STUCK = {
    "Unschedulable": (
        PodLife(unschedulable="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
        "no node has enough nvidia.com/gpu free for pod tune-trainer-1-0",
    ),
    "ImagePullFailed": (
        PodLife(waiting=("ErrImagePull", "manifest for registry.example/trainer:1 not found")),
        "image registry.example/trainer:1 of pod tune-trainer-1-0 cannot be pulled: manifest",
    ),
    "VolumeFailed": (
        PodLife(unschedulable='persistentvolumeclaim "results" not found'),
        'waits for its volume: persistentvolumeclaim "results" not found',
    ),
    "ContainerConfigError": (
        PodLife(waiting=("CreateContainerConfigError", 'secret "token" not found')),
        'container trainer of pod tune-trainer-1-0 cannot start: secret "token" not found',
    ),
}


@pytest.mark.parametrize("reason", STUCK)
def test_what_keeps_a_pod_from_starting_is_told(namespace: Namespace, reason: str) -> None:
    life, message = STUCK[reason]
    namespace.pods_do(lambda _: life)
    namespace.create(preference_job())
    eventually(lambda: _known_to_kubernetes(namespace), "the pod's state")
    known = time.monotonic()
    found = namespace.wait_condition("tune", "PodsReady", reason)
    assert time.monotonic() - known < SECONDS_TO_TELL
    assert found["status"] == "False"
    assert message in found["message"]
    assert namespace.status("tune")["reason"] == reason, "the printer column shows it"
    assert reason in [told for told, _ in namespace.events("tune")]


def _known_to_kubernetes(namespace: Namespace) -> bool:
    for pod in namespace.items("pods"):
        conditions = pod["status"].get("conditions", [])
        states = [entry["state"] for entry in pod["status"].get("containerStatuses", [])]
        if any(entry.get("reason") == "Unschedulable" for entry in conditions):
            return True
        if any("waiting" in state for state in states):
            return True
    return False


def test_a_mount_that_fails_is_known_only_from_an_event(namespace: Namespace) -> None:
    failure = 'MountVolume.SetUp failed for volume "claim-0" : mount failed: exit status 32'
    namespace.pods_do(lambda _: PodLife(mount_failure=failure))
    namespace.create(preference_job())
    eventually(lambda: [e for e in namespace.items("events") if e["reason"] == "FailedMount"], "the event")
    known = time.monotonic()
    found = namespace.wait_condition("tune", "PodsReady", "VolumeFailed")
    assert time.monotonic() - known < SECONDS_TO_TELL
    assert failure in found["message"]


def refusals(operator: OperatorProcess) -> int:
    """Pods that the API server has refused to this operator."""
    wanted = 'plumbline_operator_api_requests_total{code="403",resource="pods",verb="apply"} '
    lines = operator.get(operator.metrics_port, "/metrics").splitlines()
    return next((int(float(line.removeprefix(wanted))) for line in lines if line.startswith(wanted)), 0)


def test_a_quota_refuses_until_it_is_raised(namespace: Namespace, operator: OperatorProcess) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "0"}},
    }
    path = f"/api/v1/namespaces/{namespace.name}/resourcequotas"
    namespace.api.create(path, quota)
    eventually(lambda: namespace.api.get(f"{path}/small")["status"].get("hard"), "the quota's status")
    namespace.create(preference_job())
    found = namespace.wait_condition("tune", "PodsReady", "QuotaExceeded", timeout=10)
    assert "exceeded quota: small" in found["message"]
    version = namespace.job("tune")["metadata"]["resourceVersion"]
    asked = refusals(operator)
    eventually(lambda: refusals(operator) >= asked + 2, "two more refusals", 20)
    assert namespace.job("tune")["metadata"]["resourceVersion"] == version, "the same answer is not written again"
    namespace.api.patch(f"{path}/small", {"spec": {"hard": {"pods": "4"}}})
    status = namespace.wait_phase("tune", "Complete")
    assert status["failures"] == 0, "waiting for quota is no failure"


def test_a_stuck_job_starts_when_the_obstacle_is_gone(namespace: Namespace) -> None:
    namespace.pods_do(lambda _: PodLife(waiting=("ImagePullBackOff", "back-off pulling image")))
    namespace.create(preference_job())
    namespace.wait_condition("tune", "PodsReady", "ImagePullFailed")
    namespace.pods_do(lambda _: PodLife())
    namespace.api.request("DELETE", f"/api/v1/namespaces/{namespace.name}/pods/tune-trainer-1-0")
    assert namespace.wait_phase("tune", "Complete")["failures"] == 0
