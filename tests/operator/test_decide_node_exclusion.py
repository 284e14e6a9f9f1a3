"""Nodes on which attempts came to grief: which are suspected, for how long, and what the next pods say."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from plumbline_api.conditions import Reason
from plumbline_api.run_policy import NodeExclusion
from plumbline_api.status import Attempt, ExcludedNode
from plumbline_operator.decide.node_exclusion import exclude, suspected
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import START, World

Ends = list[tuple[str, str]]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([("NodeLost", "a")], True),
        ([("GpuError", "a")], True),
        ([("Killed", "a")], False),
        ([("Killed", "a"), ("UnknownExit", "a")], True),
        ([("Killed", "a"), ("Killed", "b")], False),
        ([("NodeLost", "a"), ("Killed", "a")], True),
        ([("Killed", "a"), ("PodEvicted", "a")], False),
        ([("HostOutOfMemory", "a"), ("HostOutOfMemory", "a")], False),
        ([("Diverged", "a"), ("Killed", "a")], False),
        ([("NodeLost", "")], False),
        ([], False),
    ],
)
def test_who_is_suspected(ends: Ends, expected: bool) -> None:
    attempts = [Attempt(number=n, reason=reason, node=node) for n, (reason, node) in enumerate(ends, start=1)]
    assert suspected(attempts) == expected


def test_the_list_is_bounded_and_the_first_to_expire_goes() -> None:
    known = [
        ExcludedNode(name=f"n{n}", reason="NodeLost", attempt=1, until=START + timedelta(seconds=n)) for n in range(16)
    ]
    lost = [Attempt(number=2, reason=Reason.NODE_LOST, node="new")]
    names = [node.name for node in exclude(known, lost, NodeExclusion(), START)]
    assert names == [f"n{n}" for n in range(1, 16)] + ["new"]
    assert len(exclude(known[:3], [Attempt(number=2, reason="NodeLost", node="n1")], NodeExclusion(), START)) == 3


def lost_on(node: str, **exclusion: Any) -> World:
    world = World(preference_job(run_policy={"nodeExclusion": exclusion}))
    world.settle()
    world.run_pod("tune-trainer-1-0", node)
    world.settle()
    world.lose_node("tune-trainer-1-0")
    world.pass_time(30)
    world.settle()
    return world


def affinity(world: World, pod: str) -> dict[str, Any] | None:
    return world.manifests[pod]["spec"].get("affinity", {}).get("nodeAffinity")


AWAY_FROM_NODE_3 = [{"key": "metadata.name", "operator": "NotIn", "values": ["node-3"]}]


def test_the_next_pods_prefer_other_nodes() -> None:
    world = lost_on("node-3")
    assert affinity(world, "tune-trainer-2-0") == {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchFields": AWAY_FROM_NODE_3}}
        ]
    }
    (node,) = world.status.excluded_nodes
    assert (node.name, node.reason, node.attempt) == ("node-3", "NodeLost", 1)
    assert node.until == START + timedelta(seconds=30 + 3600)
    told = [event.message for event in world.events if event.reason == "NodeExcluded"]
    assert told == ["attempt 1 ended on node node-3 (NodeLost): avoided until 2030-01-01 01:00 UTC"]


def test_pods_may_have_to_wait_rather_than_run_there() -> None:
    world = lost_on("node-3", mode="Required")
    terms = {"nodeSelectorTerms": [{"matchFields": AWAY_FROM_NODE_3}]}
    assert affinity(world, "tune-trainer-2-0") == {"requiredDuringSchedulingIgnoredDuringExecution": terms}


def test_a_job_may_hold_nothing_against_its_nodes() -> None:
    world = lost_on("node-3", mode="None")
    assert affinity(world, "tune-trainer-2-0") is None
    assert not world.status.excluded_nodes


def test_a_small_cluster_is_not_starved() -> None:
    """A pod's affinity is fixed: one that has waited until its node is free to use again is made anew without it."""
    world = lost_on("node-3", mode="Required", seconds=600)
    assert world.settle().requeue_after == 600
    world.pass_time(600)
    world.settle()
    assert world.created.count("tune-trainer-2-0") == 2
    assert affinity(world, "tune-trainer-2-0") is None
    world.run_all()
    assert world.status.phase == "Running"
    assert world.status.attempt == 2


def test_a_pod_that_runs_is_left_alone_when_an_exclusion_ends() -> None:
    world = lost_on("node-3", seconds=600)
    world.run_all()
    world.pass_time(600)
    world.settle()
    assert world.created.count("tune-trainer-2-0") == 1
