"""Time limits of one attempt: until its pods run, until its first step, and nodes that stop answering."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from plumbline_api.contract import StatusReport
from plumbline_operator.decide.node_loss import on_lost_node
from plumbline_operator.model import Delete
from plumbline_operator.pods import PodView
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import START, World


def world_of(replicas: int = 1, **policy: Any) -> World:
    world = World(preference_job(replicas=replicas, run_policy=policy))
    world.settle()
    return world


# all pods or none


def test_pods_without_nodes_wait_for_free() -> None:
    world = world_of(2, pendingTimeoutSeconds=60)
    world.pass_time(10_000)
    assert not world.decide().steps
    assert world.status.attempt == 1


def test_nodes_that_are_held_in_vain_are_given_back() -> None:
    world = world_of(2, pendingTimeoutSeconds=60, backoffLimit=0)
    world.pass_time(1000)
    world.bind_pod("tune-trainer-1-0")
    assert world.settle().requeue_after == 60, "the time counts from the first pod that got a node"
    world.pass_time(60)
    world.settle()
    attempt = world.status.attempts[0]
    assert (attempt.reason, attempt.counts_towards_limit, attempt.node) == ("PendingTimeout", False, "")
    assert world.status.failures == 0
    assert "0 of 2 pods run" in world.status.last_failure.message
    assert world.pods["tune-trainer-1-0"].stopping
    assert "tune-trainer-1-1" not in world.pods


def test_the_limit_is_off_once_all_pods_run() -> None:
    world = world_of(2, pendingTimeoutSeconds=60)
    world.bind_pod("tune-trainer-1-0")
    world.pass_time(59)
    world.run_all()
    world.pass_time(1000)
    world.settle()
    assert world.status.phase == "Running"


def test_zero_waits_for_ever() -> None:
    world = world_of(2, pendingTimeoutSeconds=0)
    world.bind_pod("tune-trainer-1-0")
    assert world.settle().requeue_after is None


def test_gangs_that_block_each_other_come_back_at_different_times() -> None:
    waits = []
    for uid in ("uid-1", "uid-2"):
        world = world_of(2, pendingTimeoutSeconds=60, backoff={"initialSeconds": 10, "maxSeconds": 360})
        assert world.job
        world.job["metadata"]["uid"] = uid
        waited = []
        for attempt in range(1, 5):
            world.bind_pod(f"tune-trainer-{attempt}-0")
            world.pass_time(60)
            world.settle()
            waited.append((world.status.next_attempt_time - world.now).total_seconds())
            world.remove_pod(f"tune-trainer-{attempt}-0")
            world.pass_time(waited[-1])
            world.settle()
        assert all(10 * 2**n <= wait <= 20 * 2**n for n, wait in enumerate(waited))
        waits.append(waited)
    assert waits[0] != waits[1]


def test_a_pod_that_does_not_start_on_its_node_twice_is_held_against_the_node() -> None:
    world = world_of(1, pendingTimeoutSeconds=60)
    for attempt in (1, 2):
        world.bind_pod(f"tune-trainer-{attempt}-0", "node-7")
        world.settle()
        world.pass_time(60)
        world.settle()
        world.remove_pod(f"tune-trainer-{attempt}-0")
        world.pass_time(1000)
        world.settle()
    assert [node.name for node in world.status.excluded_nodes] == ["node-7"]


# the first step


def test_an_attempt_without_a_first_step_is_repeated_and_counts() -> None:
    world = world_of(1, firstStepDeadlineSeconds=300)
    world.run_all()
    assert world.decide().requeue_after == 300
    world.pass_time(300)
    world.settle()
    assert world.status.attempts[0].reason == "FirstStepTimeout"
    assert (world.status.failures, world.status.attempts[0].node) == (1, "node-1")


@pytest.mark.parametrize(("state", "step", "from_step"), [("training", 8, 7), ("exporting", 7, 7)])
def test_a_step_ends_the_deadline_and_the_status_remembers_it(state: Any, step: int, from_step: int) -> None:
    world = world_of(1, firstStepDeadlineSeconds=300)
    world.run_all()
    world.report = StatusReport(state=state, attempt=1, step=step, max_steps=40, from_step=from_step)
    world.settle()
    if step > from_step:
        world.report = None  # the operator has just started
    world.pass_time(1000)
    world.settle()
    assert (world.status.phase, world.status.attempt) == ("Running", 1)


def test_evaluating_before_the_first_step_is_no_step() -> None:
    world = world_of(1, firstStepDeadlineSeconds=300)
    world.run_all()
    world.report = StatusReport(state="evaluating", attempt=1, step=7, max_steps=40, from_step=7)
    world.settle()
    world.pass_time(300)
    world.settle()
    assert world.status.attempts[0].reason == "FirstStepTimeout"


# lost nodes


def test_a_lost_node_is_given_up_without_waiting_for_a_kubelet_that_does_not_answer() -> None:
    world = world_of(2, nodeLostTimeoutSeconds=20, backoffLimit=0)
    world.run_all()
    world.bind_pod("tune-trainer-1-1", "node-2")
    world.lose_node("tune-trainer-1-1")
    assert world.settle().requeue_after == 20
    world.pass_time(20)
    deletes = {step.name: step.grace_seconds for step in world.decide().steps if isinstance(step, Delete)}
    assert deletes == {"tune-trainer-1-0": None, "tune-trainer-1-1": 0}
    world.settle()
    attempt = world.status.attempts[0]
    assert (attempt.reason, attempt.node, attempt.counts_towards_limit) == ("NodeLost", "node-2", False)
    assert world.status.last_failure.node == "node-2"
    assert world.status.failures == 0


@pytest.mark.parametrize(
    ("seconds", "ready", "lost"), [(29, False, False), (30, False, True), (30, True, False), (30, None, False)]
)
def test_a_pod_that_never_ran_is_given_up_as_long_after_its_deletion_was_asked_for(
    seconds: int, ready: bool | None, lost: bool
) -> None:
    pending = PodView("pod-0", "uid-0", 1, 0, node="node-1", deletion_requested=START)
    nodes = {} if ready is None else {"node-1": ready}
    assert on_lost_node(pending, nodes, 30, START + timedelta(seconds=seconds)) is lost


def test_a_running_pod_that_saves_is_not_given_up_for_its_deletion() -> None:
    saving = PodView("pod-0", "uid-0", 1, 0, phase="Running", node="node-1", deletion_requested=START)
    assert not on_lost_node(saving, {"node-1": False}, 30, START + timedelta(seconds=100))


def test_a_node_that_comes_back_in_time_is_not_lost() -> None:
    world = world_of(1, nodeLostTimeoutSeconds=20)
    world.run_all()
    world.lose_node("tune-trainer-1-0")
    world.pass_time(15)
    world.nodes["node-1"] = True
    world.pass_time(100)
    world.settle()
    assert (world.status.phase, world.status.attempt) == ("Running", 1)


def test_a_pod_that_is_not_ready_on_a_node_that_is_goes_on() -> None:
    world = world_of(1, nodeLostTimeoutSeconds=0)
    world.run_all()
    world.lose_node("tune-trainer-1-0")
    world.nodes.clear()  # not known: the operator may not read nodes
    assert not world.decide().steps


def test_how_long_a_lost_node_is_waited_for_is_the_jobs_choice() -> None:
    world = world_of(1, nodeLostTimeoutSeconds=0)
    tolerations = world.manifests["tune-trainer-1-0"]["spec"]["tolerations"]
    assert {(entry["key"], entry["tolerationSeconds"]) for entry in tolerations} == {
        ("node.kubernetes.io/not-ready", 0),
        ("node.kubernetes.io/unreachable", 0),
    }
