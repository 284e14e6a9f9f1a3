"""Jobs in Kueue's queues: what their pods carry, how they wait, and what evictions are to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline_api.conditions import Reason
from plumbline_api.scheduling import Scheduling
from plumbline_operator.decide.diagnosis import Evidence, diagnose_pod
from plumbline_operator.kueue import ADMISSION_GATE, group_name
from plumbline_operator.pods import PodView, read_pod
from tests.operator.job_documents import preference_job, stored
from tests.operator.simulated_world import World

RECORDED = Path(__file__).parent / "kueue"


def recorded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((RECORDED / f"{name}.yaml").read_text(encoding="utf-8"))
    return document


def queued_world(replicas: int = 2, **policy: Any) -> World:
    scheduling = {"queue": "research", "workloadPriorityClassName": "urgent"}
    world = World(preference_job(replicas=replicas, run_policy=policy, scheduling=scheduling))
    world.settle()
    return world


def test_pods_carry_what_kueue_reads() -> None:
    manifest = queued_world().manifests["tune-trainer-1-0"]
    pod = recorded("gated")
    ours = {name: value for name, value in manifest["metadata"]["labels"].items() if "kueue" in name}
    kueues = {name: value for name, value in pod["metadata"]["labels"].items() if "kueue" in name}
    assert ours == {name: value for name, value in kueues.items() if name != "kueue.x-k8s.io/managed"}
    written = {"kueue.x-k8s.io/role-hash"}
    kept = {name: text for name, text in pod["metadata"]["annotations"].items() if name not in written}
    assert manifest["metadata"]["annotations"] == kept
    assert manifest["spec"]["schedulingGates"] == pod["spec"]["schedulingGates"]


def test_jobs_without_a_queue_carry_nothing_of_it() -> None:
    world = World()
    world.settle()
    assert "kueue" not in str(world.manifests)
    assert "schedulingGates" not in world.manifests["tune-trainer-1-0"]["spec"]
    assert "QuotaReserved" not in [condition.type for condition in world.status.conditions]


def test_every_attempt_is_a_group_of_its_own_and_no_job_gets_that_of_another() -> None:
    longest = stored(preference_job("x" * 40), uid="0d4c51bb-7c51-4c0e-9d1c-3f1f0f4f2d10")
    again = stored(preference_job("x" * 40), uid="f7c51bbd-7c51-4c0e-9d1c-3f1f0f4f2d10")
    names = {group_name(longest, 1), group_name(longest, 2), group_name(again, 1)}
    assert len(names) == 3
    assert len(group_name(longest, 9999)) <= 63, "it is the value of a label"


def test_the_recorded_pods_are_read_right() -> None:
    gated, admitted, evicted = (read_pod(recorded(name)) for name in ("gated", "admitted", "evicted"))
    assert (gated.gates, gated.scheduled, gated.bound) == ((ADMISSION_GATE,), False, None)
    assert (admitted.gates, admitted.node) == ((), "gpu-7")
    assert admitted.bound is not None
    assert (evicted.disruption, evicted.stopping) == ("WorkloadEvictedDueToPreempted", True)


def test_the_job_is_held_until_it_is_admitted() -> None:
    world = queued_world()
    assert all(pod.gates == (ADMISSION_GATE,) for pod in world.pods.values())
    assert (world.status.phase, world.status.reason) == ("Queued", "WaitingForQuota")
    condition = world.condition("QuotaReserved")
    assert (condition.status, condition.message) == (
        "False",
        "2 pods wait for admission by Kueue in queue research",
    )
    assert world.condition("PodsReady").reason == "WaitingForQuota"
    world.pass_time(100_000)
    assert not world.decide().steps, "waiting in a queue has no limit and costs no writes"
    for name in world.pods:
        world.open_gates(name)
    world.settle()
    assert (world.condition("QuotaReserved").status, world.status.phase) == ("True", "Starting")
    world.run_all()
    assert world.status.phase == "Running"


def test_a_job_can_leave_the_queue() -> None:
    world = queued_world()
    world.edit_policy(suspend=True)
    world.settle()
    assert not world.pods
    assert world.status.phase == "Suspended"
    assert world.condition("QuotaReserved").status == "False"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("WorkloadEvictedDueToPreempted", Reason.PREEMPTED),
        ("WorkloadEvictedDueToPodsReadyTimeout", Reason.POD_EVICTED),
        ("WorkloadEvictedDueToClusterQueueStopped", Reason.POD_EVICTED),
        ("WorkloadEvictedDueToNodeFailures", Reason.POD_EVICTED),
    ],
)
def test_evictions_by_kueue_are_no_failures(reason: str, expected: Reason) -> None:
    pod = dataclasses.replace(read_pod(recorded("evicted")), disruption=reason)
    finding = diagnose_pod(pod, Evidence())
    assert finding is not None
    assert finding.reason == expected
    assert not finding.counts


def test_an_evicted_attempt_is_queued_again_and_costs_nothing() -> None:
    world = queued_world(backoffLimit=0)
    for name in list(world.pods):
        world.open_gates(name)
    world.run_all()
    evicted: PodView = read_pod(recorded("evicted"))
    for name in list(world.pods):
        world.stop_pod(name)
        world.pods[name] = dataclasses.replace(world.pods[name], disruption=evicted.disruption)
    world.pass_time(10)
    world.settle()
    assert world.status.attempts[0].reason == "Preempted"
    for name in list(world.pods):
        world.remove_pod(name)
    world.settle()
    assert (world.status.attempt, world.status.failures, world.status.phase) == (2, 0, "Queued")
    labels = world.manifests["tune-trainer-2-0"]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/pod-group-name"] == "tune-2-uid-1"


def test_a_job_that_has_ended_holds_no_quota() -> None:
    world = queued_world()
    for name in list(world.pods):
        world.open_gates(name)
    world.run_all()
    for name in list(world.pods):
        world.end_pod(name, 0)
    world.settle()
    condition = world.condition("QuotaReserved")
    assert (condition.status, condition.reason) == ("False", "Completed")
    told = [event for event in world.events if event.reason in ("WaitingForQuota", "QuotaReserved")]
    assert [(event.type, event.reason) for event in told] == [
        ("Normal", "WaitingForQuota"),
        ("Normal", "QuotaReserved"),
    ]


def test_the_queue_may_be_changed_for_the_next_attempt() -> None:
    world = queued_world()
    assert world.job
    world.job["spec"]["scheduling"]["queue"] = "production"
    assert Scheduling.model_validate(world.job["spec"]["scheduling"]).queue == "production"
    for name in list(world.pods):
        world.open_gates(name)
    world.run_all()
    world.end_pod("tune-trainer-1-0", 75)
    world.settle()
    world.pass_time(10)
    world.settle()
    world.remove_pod("tune-trainer-1-1")
    world.settle()
    assert world.manifests["tune-trainer-2-0"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "production"
