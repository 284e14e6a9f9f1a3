"""Restart rules, lost nodes and annotations on a real API server, with the rights that the chart grants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.operator.job_documents import preference_job
from tests.operator.live_cluster import Namespace, condition, eventually
from tests.operator.simulated_kubelet import PodLife

pytestmark = pytest.mark.control_plane


def by_attempt(*lives: PodLife) -> Callable[[Any], PodLife]:
    """One life for each attempt; the last one for all later ones."""
    return lambda pod: lives[min(int(pod["metadata"]["labels"]["plumbline.dev/attempt"]), len(lives)) - 1]


def pod(namespace: Namespace, name: str) -> dict[str, Any]:
    found: dict[str, Any] = namespace.api.get(f"/api/v1/namespaces/{namespace.name}/pods/{name}")
    return found


def test_a_rule_about_the_log_suspends_the_job_until_somebody_has_looked(namespace: Namespace) -> None:
    log = "step 12\nRuntimeError: NCCL watchdog: communicator aborted after timeout\n"
    namespace.pods_do(by_attempt(PodLife(exit_code=70, log=log), PodLife()))
    rule = {"match": {"messages": ["NCCL*timeout"]}, "action": "Suspend"}
    namespace.create(preference_job(run_policy={"restartRules": [rule]}))
    status = namespace.wait_phase("tune", "Suspended")
    found = condition(status, "Suspended")
    assert found is not None
    assert (found["status"], found["reason"]) == ("True", "SuspendedByRule")
    assert found["message"].startswith("suspended by runPolicy.restartRules[0] when attempt 1 ended")
    job = namespace.job("tune")
    assert job is not None
    assert job["spec"]["runPolicy"]["suspend"] is True
    assert [reason for reason, _ in namespace.events("tune")].count("SuspendedByRule") == 1
    namespace.patch("tune", {"spec": {"runPolicy": {"suspend": False}}})
    status = namespace.wait_phase("tune", "Complete")
    assert (status["attempt"], status["failures"]) == (2, 0)


def test_a_rule_repeats_at_once_what_would_have_failed(namespace: Namespace) -> None:
    namespace.pods_do(by_attempt(PodLife(exit_code=72), PodLife()))
    rule = {"match": {"exitCodes": [72]}, "action": "Ignore"}
    namespace.create(preference_job(run_policy={"restartRules": [rule], "backoffLimit": 0}))
    status = namespace.wait_phase("tune", "Complete")
    assert [entry["reason"] for entry in status["attempts"]] == ["Diverged", "Completed"]


def test_pods_that_do_not_come_together_give_their_nodes_back(namespace: Namespace) -> None:
    def life(document: Any) -> PodLife:
        labels = document["metadata"]["labels"]
        if labels["plumbline.dev/attempt"] != "1":
            return PodLife()
        short = labels["plumbline.dev/rank"] == "1"
        return PodLife(unschedulable="0/1 nodes are available") if short else PodLife(exit_code=None)

    namespace.pods_do(life)
    policy = {"pendingTimeoutSeconds": 3, "backoffLimit": 0, "backoff": {"initialSeconds": 1, "maxSeconds": 1}}
    namespace.create(preference_job(replicas=2, run_policy=policy))
    status = namespace.wait_phase("tune", "Complete")
    # A machine too busy to start two simulated pods within the timeout sees more than one attempt without them.
    *without_all_pods, last = [entry["reason"] for entry in status["attempts"]]
    assert (set(without_all_pods), last) == ({"PendingTimeout"}, "Completed")
    assert status["failures"] == 0


def test_a_lost_node_is_given_up_and_avoided(namespace: Namespace) -> None:
    node = f"lost-{namespace.name}"
    namespace.api.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    namespace.pods_do(by_attempt(PodLife(exit_code=None, node=node), PodLife(exit_code=None)))
    policy = {"nodeLostTimeoutSeconds": 1, "backoffLimit": 0, "nodeExclusion": {"mode": "Required"}}
    namespace.create(preference_job(run_policy=policy))
    namespace.wait_phase("tune", "Running")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    not_ready = {"type": "Ready", "status": "False", "reason": "NodeStatusUnknown", "lastTransitionTime": now}
    namespace.api.patch(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [not_ready]}})
    namespace.api.patch(
        f"/api/v1/namespaces/{namespace.name}/pods/tune-trainer-1-0/status", {"status": {"conditions": [not_ready]}}
    )

    def second_attempt_runs() -> dict[str, Any] | None:
        status = namespace.status("tune")
        return status if (status.get("attempt"), status.get("phase")) == (2, "Running") else None

    status = eventually(second_attempt_runs, "the next attempt", 20)
    first = status["attempts"][0]
    assert (first["reason"], first["node"], status["failures"]) == ("NodeLost", node, 0)
    assert [entry["name"] for entry in status["excludedNodes"]] == [node]
    terms = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [node]}]}
    affinity = pod(namespace, "tune-trainer-2-0")["spec"]["affinity"]["nodeAffinity"]
    assert affinity == {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [terms]}}
    assert "NodeExcluded" in [reason for reason, _ in namespace.events("tune")]
    namespace.delete("tune")
    namespace.api.delete(f"/api/v1/nodes/{node}")


def test_preferred_nodes_are_accepted_by_the_server_too(namespace: Namespace) -> None:
    """Two failures in a row on one node make the next pods prefer another one."""
    namespace.pods_do(by_attempt(PodLife(exit_code=1), PodLife(exit_code=1), PodLife()))
    namespace.create(preference_job())
    status = namespace.wait_phase("tune", "Complete")
    assert [entry["name"] for entry in status["excludedNodes"]] == ["simulated"]
    (preference,) = pod(namespace, "tune-trainer-3-0")["spec"]["affinity"]["nodeAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert preference["preference"]["matchFields"][0]["values"] == ["simulated"]


def test_running_pods_tell_when_their_last_checkpoint_was_taken(namespace: Namespace) -> None:
    checkpoint = {
        "step": 20,
        "time": "2099-01-01T00:00:00Z",
        "uri": "pvc://results/tune/checkpoints/step-00000020",
        "digest": "sha256:20",
        "verified": True,
        "sizeBytes": 4096,
        "saveSeconds": 1.5,
    }
    damage = "checkpoint step-00000030 is damaged and was passed over: manifest.json is missing"
    report = {"state": "training", "step": 25, "maxSteps": 40, "fromStep": 20, "checkpoint": checkpoint}
    namespace.pods_do(lambda _: PodLife(exit_code=None, report=report | {"damagedCheckpoints": [damage]}))
    namespace.create(preference_job())

    def annotated() -> dict[str, str] | None:
        annotations: dict[str, str] = pod(namespace, "tune-trainer-1-0")["metadata"].get("annotations") or {}
        return annotations if "plumbline.dev/checkpoint-time" in annotations else None

    namespace.wait_phase("tune", "Running")
    annotations = eventually(annotated, "the annotation")
    assert annotations["plumbline.dev/checkpoint-time"] == "2099-01-01T00:00:00Z"
    assert annotations["plumbline.dev/checkpoint-step"] == "20"
    status = namespace.status("tune")
    assert (status["checkpoint"]["sizeBytes"], status["saveSeconds"]) == (4096, 1.5)
    assert namespace.events("tune").count(("CheckpointDamaged", damage)) == 1
    version = pod(namespace, "tune-trainer-1-0")["metadata"]["resourceVersion"]
    namespace.patch("tune", {"metadata": {"labels": {"touched": "yes"}}})
    eventually(lambda: (namespace.job("tune") or {})["metadata"]["labels"]["touched"] == "yes", "the edit")
    assert pod(namespace, "tune-trainer-1-0")["metadata"]["resourceVersion"] == version


def test_a_job_of_another_controller_is_left_alone(namespace: Namespace) -> None:
    foreign, own = preference_job("foreign", managedBy="kueue.x-k8s.io/multikueue"), preference_job("own")
    namespace.create(foreign)
    namespace.create(own)
    namespace.wait_phase("own", "Complete")
    job = namespace.job("foreign")
    assert job is not None
    assert "status" not in job
    assert not namespace.children("foreign")
