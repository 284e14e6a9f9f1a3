"""Suspension by a rule or a guardrail: the switch in the spec is the only one, and no crash loses the intent."""

from __future__ import annotations

import pytest

from plumbline_operator.decide.attempts import UNCONFIRMED_DELETION_SECONDS
from plumbline_operator.model import Delete, SuspendJob, WriteStatus
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import World

RULES = [{"match": {"exitCodes": [70]}, "action": "Suspend"}]


def failed(replicas: int = 1) -> World:
    world = World(preference_job(replicas=replicas, run_policy={"restartRules": RULES}))
    world.run_all()
    world.end_pod("tune-trainer-1-0", 70)
    return world


def spec_suspend(world: World) -> bool:
    assert world.job
    return bool(world.job["spec"]["runPolicy"].get("suspend", False))


def test_the_intent_is_written_before_the_spec() -> None:
    world = failed()
    first = world.decide()
    assert any(isinstance(step, WriteStatus) for step in first.steps)
    assert SuspendJob() not in first.steps
    assert first.again
    world.carry_out(first.steps)
    assert SuspendJob() in world.decide().steps


def test_a_rule_suspends_and_the_user_resumes() -> None:
    world = failed()
    world.settle()
    assert spec_suspend(world)
    assert world.status.phase == "Suspended"
    condition = world.condition("Suspended")
    assert (condition.status, condition.reason) == ("True", "SuspendedByRule")
    assert condition.message.startswith("suspended by runPolicy.restartRules[0] when attempt 1 ended (TrainerBug)")
    assert world.status.last_failure.exit_code == 70
    assert world.status.failures == 0
    assert not world.decide().steps
    world.edit_policy(suspend=False)
    world.run_all()
    assert (world.status.phase, world.status.attempt) == ("Running", 2)
    assert world.condition("Suspended").reason == "Resumed"


def test_the_user_suspends_later_in_his_own_name() -> None:
    world = failed()
    world.settle()
    world.edit_policy(suspend=False)
    world.run_all()
    world.edit_policy(suspend=True)
    world.settle()
    world.remove_pod("tune-trainer-2-0")
    world.settle()
    assert world.condition("Suspended").reason == "SuspendedByUser"


def test_the_other_pods_are_stopped_before_the_job_counts_as_suspended() -> None:
    world = failed(replicas=2)
    world.settle()
    assert world.pods["tune-trainer-1-1"].stopping
    assert (world.status.phase, world.condition("Suspended").status) == ("Suspending", "False")
    world.remove_pod("tune-trainer-1-1")
    world.settle()
    assert (world.status.phase, world.condition("Suspended").status) == ("Suspended", "True")
    assert world.condition("Suspended").reason == "SuspendedByRule"


@pytest.mark.parametrize("dies_after", range(8))
def test_an_operator_that_dies_anywhere_suspends_once(dies_after: int) -> None:
    world = failed()
    for _ in range(4):
        world.carry_out(world.decide().steps[:dies_after])
    world.settle()
    assert (world.status.phase, world.status.attempt) == ("Suspended", 1)
    assert world.condition("Suspended").reason == "SuspendedByRule"
    assert sum(event.reason == "SuspendedByRule" for event in world.events) == 1


def test_resuming_before_anybody_has_seen_the_suspension_is_resuming() -> None:
    world = failed()
    world.carry_out(world.decide().steps)  # the intent
    world.carry_out(world.decide().steps)  # the spec
    assert spec_suspend(world)
    world.edit_policy(suspend=False)
    world.run_all()
    assert (world.status.phase, world.status.attempt) == ("Running", 2)


def test_pods_whose_deletion_nobody_confirms_are_looked_at_again() -> None:
    world = World()
    world.run_all()
    world.set_policy(suspend=True)
    for _ in range(3):
        decision = world.decide()
        world.carry_out(tuple(step for step in decision.steps if not isinstance(step, Delete)))
    assert any(isinstance(step, Delete) for step in decision.steps)
    assert decision.requeue_after == UNCONFIRMED_DELETION_SECONDS
