"""What follows when an attempt ends badly: the table of answers, the order of rules, texts of hostile logs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from plumbline_api.conditions import Reason
from plumbline_api.run_policy import RunPolicy
from plumbline_operator.decide.diagnosis import Finding, Rank
from plumbline_operator.decide.restart_rules import Answer, Response, occurs, respond
from plumbline_operator.pods import PodView
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import World

POD = PodView("tune-trainer-1-0", "u", 1, 0, role="trainer")


def answer(rules: list[dict[str, Any]], finding: Finding, log: str = "") -> Response:
    return respond(finding, log, RunPolicy.model_validate({"restartRules": rules}).restart_rules)


def ended(reason: Reason = Reason.INFRASTRUCTURE_ERROR, code: int | None = 75, message: str = "") -> Finding:
    return Finding(reason, message, Rank.OWN_FAULT, pod=POD, exit_code=code)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.CONFIG_ERROR, Response(Answer.FAIL)),
        (Reason.DIVERGED, Response(Answer.FAIL)),
        (Reason.CHECKPOINT_UNREADABLE, Response(Answer.FAIL)),
        (Reason.TRAINER_BUG, Response(Answer.RESTART, counts=True)),
        (Reason.INFRASTRUCTURE_ERROR, Response(Answer.RESTART, counts=True)),
        (Reason.HOST_OUT_OF_MEMORY, Response(Answer.RESTART, counts=True)),
        (Reason.KILLED, Response(Answer.RESTART, counts=True)),
        (Reason.STALLED, Response(Answer.RESTART, counts=True)),
        (Reason.FIRST_STEP_TIMEOUT, Response(Answer.RESTART, counts=True)),
        (Reason.PENDING_TIMEOUT, Response(Answer.RESTART)),
        (Reason.POD_EVICTED, Response(Answer.IGNORE)),
        (Reason.PREEMPTED, Response(Answer.IGNORE)),
        (Reason.POD_DELETED, Response(Answer.IGNORE)),
        (Reason.NODE_LOST, Response(Answer.IGNORE)),
        (Reason.STOPPED_SAVED, Response(Answer.IGNORE)),
        (Reason.SUSPENDED_BY_GUARDRAIL, Response(Answer.SUSPEND)),
    ],
)
def test_without_rules_the_contract_answers(reason: Reason, expected: Response) -> None:
    assert answer([], ended(reason)) == expected


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({"exitCodes": [70, 75]}, True),
        ({"exitCodes": [70]}, False),
        ({"reasons": ["InfrastructureError"]}, True),
        ({"reasons": ["Killed"]}, False),
        ({"roles": ["trainer"]}, True),
        ({"messages": ["lost peer"]}, True),
        ({"messages": ["lost*timeout"]}, False),
        ({"messages": ["no such text", "CUDA*ECC"]}, True),
        ({"exitCodes": [75], "messages": ["ECC"]}, True),
        ({"exitCodes": [75], "reasons": ["Killed"]}, False),
    ],
)
def test_all_fields_of_a_match_must_fit(match: dict[str, Any], fits: bool) -> None:
    finding = ended(message="rank 2: lost peer rank 1")
    found = answer([{"match": match, "action": "Fail"}], finding, "step 40\nCUDA error: uncorrectable ECC error\n")
    assert (found == Response(Answer.FAIL, said_by="runPolicy.restartRules[0]")) == fits


@pytest.mark.parametrize(
    ("rule", "reason", "expected"),
    [
        ({"action": "RestartJob"}, Reason.DIVERGED, (Answer.RESTART, True)),
        ({"action": "RestartJob", "countsTowardsLimit": False}, Reason.DIVERGED, (Answer.RESTART, False)),
        ({"action": "RestartJob"}, Reason.POD_EVICTED, (Answer.RESTART, False)),
        ({"action": "RestartJob", "countsTowardsLimit": True}, Reason.POD_EVICTED, (Answer.RESTART, True)),
        ({"action": "RestartRole"}, Reason.KILLED, (Answer.RESTART, True)),
        ({"action": "Ignore"}, Reason.KILLED, (Answer.IGNORE, False)),
        ({"action": "Suspend"}, Reason.KILLED, (Answer.SUSPEND, False)),
        ({"action": "Fail"}, Reason.POD_EVICTED, (Answer.FAIL, False)),
    ],
)
def test_actions(rule: dict[str, Any], reason: Reason, expected: tuple[Answer, bool]) -> None:
    found = answer([{"match": {"roles": ["trainer"]}, **rule}], ended(reason))
    assert (found.answer, found.counts) == expected


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        {"match": {"exitCodes": [70]}, "action": "Fail"},
        {"match": {"messages": ["ECC"]}, "action": "Ignore"},
        {"match": {"exitCodes": [75]}, "action": "Suspend"},
    ]
    assert answer(rules, ended(message="an ECC error")).said_by == "runPolicy.restartRules[1]"
    assert answer(rules, ended()).said_by == "runPolicy.restartRules[2]"


def test_an_end_without_a_pod_is_the_trainers() -> None:
    gone = Finding(Reason.POD_DELETED, "the pod of rank 1 was deleted", Rank.TAKEN_AWAY)
    assert answer([{"match": {"roles": ["trainer"]}, "action": "Fail"}], gone).answer == Answer.FAIL


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("timeout", "NCCL timeout", True),
        ("NCCL*timeout", "NCCL watchdog: timeout", True),
        ("timeout*NCCL", "NCCL watchdog: timeout", False),
        ("NCCL*timeout", "NCCL\ntimeout", False),
        ("*NCCL*", "NCCL", True),
        ("a*a", "a", False),
        ("a.c", "abc", False),
        ("(x+x+)+y", "the text (x+x+)+y itself", True),
    ],
)
def test_patterns_are_text_with_stars(pattern: str, text: str, found: bool) -> None:
    assert occurs(pattern, text) == found


def test_no_text_keeps_the_operator_busy() -> None:
    """What makes backtracking engines take for ever: a pattern of many stars against a text that nearly matches."""
    rules = [{"match": {"messages": ["a*" * 127 + "b"] * 8}, "action": "Fail"}] * 20
    hostile = ended(message="a" * 4096)
    started = time.monotonic()
    assert answer(rules, hostile, "a" * 1_000_000).said_by == ""
    assert time.monotonic() - started < 1


# in the life of a job


def job_with(*rules: dict[str, Any], **policy: Any) -> World:
    world = World(preference_job(run_policy={"restartRules": list(rules), **policy}))
    world.run_all()
    return world


def test_a_rule_repeats_what_would_have_failed() -> None:
    world = job_with({"match": {"exitCodes": [72]}, "action": "RestartJob"}, backoffLimit=1)
    for attempt in (1, 2):
        world.end_pod(f"tune-trainer-{attempt}-0", 72)
        world.run_all()
    assert (world.status.phase, world.status.failures) == ("Failed", 2)
    assert "by runPolicy.restartRules[0]" in next(e.message for e in world.events if e.reason == "BackingOff")


def test_a_rule_fails_what_would_have_been_repeated() -> None:
    world = job_with({"match": {"messages": ["step 7"]}, "action": "Fail"})
    world.end_pod("tune-trainer-1-0", 70, '{"reason": "TrainerBug", "message": "bug in step 7"}')
    world.settle()
    assert world.condition("Failed").message == "bug in step 7 (runPolicy.restartRules[0] says Fail)"


def test_the_log_is_searched_too() -> None:
    world = job_with({"match": {"messages": ["log of tune-trainer-1-0"]}, "action": "Fail"})
    world.end_pod("tune-trainer-1-0", 75)
    world.settle()
    assert world.status.phase == "Failed"


def test_what_is_ignored_costs_neither_limit_nor_backoff() -> None:
    backoff = {"initialSeconds": 10, "maxSeconds": 60}
    world = job_with({"match": {"exitCodes": [75]}, "action": "Ignore"}, backoffLimit=0, backoff=backoff)
    world.pass_time(100)
    world.end_pod("tune-trainer-1-0", 75)
    world.settle()
    assert (world.status.attempt, world.status.failures) == (2, 0)
    assert not world.status.attempts[0].counts_towards_limit


def test_a_rule_about_evictions_does_not_hold_a_suspension_against_the_job() -> None:
    world = job_with({"match": {"reasons": ["PodDeleted", "StoppedSaved", "PodEvicted"]}, "action": "Fail"})
    world.edit_policy(suspend=True)
    world.settle()
    world.end_pod("tune-trainer-1-0", 85)
    world.settle()
    assert world.status.phase == "Suspended"
