"""The condition Healthy and the events about rollbacks, as a table of what trainers say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from plumbline_api.conditions import REASONS
from plumbline_api.contract import StatusReport, TerminationMessage
from plumbline_api.guardrails import SIGNALS
from plumbline_api.status import Health, JobStatus, RollbackStatus, SignalHealth
from plumbline_operator.decide.guardrails import rollback_events
from plumbline_operator.decide.health import healthy, merge_health
from plumbline_operator.model import WriteStatus
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import World


def signal(name: str = "truncation", broken: int | None = None, **more: Any) -> SignalHealth:
    fields = {"signal": name, "action": "Warn", "value": 0.3, "bound": 0.8, "window_steps": 20, **more}
    return SignalHealth(broken_since=broken, **fields)


def rollback(number: int, to_step: int = 20) -> RollbackStatus:
    time = datetime(2030, 1, 1, tzinfo=UTC)
    return RollbackStatus(number=number, signal="kl", from_step=45, to_step=to_step, time=time)


@pytest.mark.parametrize(
    ("health", "value", "reason", "message"),
    [
        (None, "Unknown", "NotMeasured", "no window of steps is full yet"),
        (Health(signals=[signal(value=None)]), "Unknown", "NotMeasured", "no window of steps is full yet"),
        (Health(signals=[signal()]), "True", "Healthy", "no signal that is measured is beyond its bound"),
        (
            Health(signals=[signal(), signal("kl", 40, bound=1.0)]),
            "False",
            "KlAboveBound",
            "kl: the mean distance from the reference: of RLVR jobs the estimated KL divergence in nats a token, of "
            "preference jobs the absolute log-ratio in nats a sequence, over the last 20 steps, is above 1 since step "
            "40; this only warns",
        ),
        (
            Health(signals=[signal("entropyCollapse", 40, bound=0.01, window_steps=5)]),
            "False",
            "EntropyCollapse",
            "entropyCollapse: the mean entropy of the policy in nats a token, while fewer than nine in ten completions "
            "are right, over the last 5 steps, is below 0.01 since step 40; this only warns",
        ),
        (
            Health(signals=[signal("notFinite", 12, action="Fail", value=None, bound=None, window_steps=None)]),
            "False",
            "NotFinite",
            "notFinite: a loss or gradient that is not finite after step 12; the job fails for it",
        ),
        (
            Health(signals=[signal("fromTheFuture", 3)]),
            "False",
            "NotMeasured",
            "fromTheFuture is beyond its bound since step 3",
        ),
    ],
)
def test_what_is_measured_becomes_a_condition(health: Health | None, value: str, reason: str, message: str) -> None:
    assert healthy(health) == (value, reason, message)


def test_the_gravest_signal_gives_the_reason_and_the_message_is_bounded() -> None:
    everything = [signal(name, 5, action="Warn") for name in SIGNALS]
    value, reason, message = healthy(Health(signals=[*everything, signal("truncation", 7, action="Fail")]))
    assert (value, reason) == ("False", "Truncation")
    assert message.startswith("truncation: ")
    assert message.endswith(f"and {len(SIGNALS) + 1 - 6} more in status.health")
    assert len(message) < 4096


def test_every_signal_has_a_reason_with_documentation() -> None:
    assert len({signal.reason for signal in SIGNALS.values()}) == len(SIGNALS)
    assert all(signal.reason in REASONS for signal in SIGNALS.values())


def test_last_words_mend_what_they_do_not_name() -> None:
    status = JobStatus(health=Health(signals=[signal("kl", 4), signal("truncation"), signal("gradientNorm", 3)]))
    merge_health(status, Health(signals=[signal("kl", 4), signal("truncation", 9, value=0.9)]), last_words=True)
    assert status.health is not None
    assert {one.signal: one.broken_since for one in status.health.signals} == {
        "kl": 4,
        "truncation": 9,
        "gradientNorm": None,
    }
    merge_health(status, None)
    assert status.health is not None


def test_a_rollback_is_told_once_by_whoever_tells_it() -> None:
    old, new = JobStatus(), JobStatus(health=Health(rollbacks=2, last_rollback=rollback(2)))
    [event] = rollback_events(old, new)
    assert (event.reason, event.occasion) == ("RolledBack", "rollback/2")
    assert event.message == (
        "rollback 2: kl was beyond its bound at step 45; the run goes on from step 20, and 25 steps are done again"
    )
    assert not rollback_events(new, new)
    [start] = rollback_events(new, JobStatus(health=Health(rollbacks=3, last_rollback=rollback(3, to_step=0))))
    assert "the run goes on from the start, and 45 steps" in start.message


def report(step: int, **health: Any) -> StatusReport:
    return StatusReport(attempt=1, state="training", step=step, max_steps=40, health=Health(**health))


def reasons(world: World, *wanted: str) -> list[str]:
    return [event.reason for event in world.events if event.reason in wanted]


def test_a_change_of_health_is_written_at_once_and_told_as_an_event_and_a_flickering_value_is_not() -> None:
    world = World(preference_job())
    world.run_all()
    assert world.condition("Healthy").status == "Unknown"
    assert not reasons(world, "NotMeasured")
    world.report = report(1, signals=[signal("gradientGrowth")])
    world.settle()
    assert world.condition("Healthy").status == "True"
    world.report = report(2, signals=[signal("gradientGrowth", value=0.4)])
    assert [step.urgent for step in world.decide().steps if isinstance(step, WriteStatus)] == [False]
    world.report = report(3, signals=[signal("gradientGrowth", 3, value=25.0)], rollbacks=1, last_rollback=rollback(1))
    assert [step.urgent for step in world.decide().steps if isinstance(step, WriteStatus)] == [True]
    world.settle()
    assert world.condition("Healthy").reason == "GradientGrowth"
    assert world.status.health.signals[0].value == 25.0
    world.report = report(4, signals=[signal("gradientGrowth")], rollbacks=1, last_rollback=rollback(1))
    world.settle()
    assert reasons(world, "Healthy", "GradientGrowth", "RolledBack") == [
        "Healthy", "GradientGrowth", "RolledBack", "Healthy",
    ]  # fmt: skip
    assert [event.type for event in world.events if event.reason in ("Healthy", "GradientGrowth", "RolledBack")] == [
        "Normal", "Warning", "Warning", "Normal",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "reason", "phase", "suspended"),
    [(72, "GuardrailFailed", "Failed", None), (85, "SuspendedByGuardrail", "Suspended", True)],
)
def test_last_words_of_a_guardrail_decide_what_follows(
    code: int, reason: str, phase: str, suspended: bool | None
) -> None:
    world = World(preference_job(run_policy={"backoffLimit": 5}))
    world.run_all()
    broken = Health(signals=[signal("kl", 9, action="Fail" if code == 72 else "Suspend", bound=1.0)])
    words = TerminationMessage(reason=reason, message="guardrail kl: too far", step=9, max_steps=40, health=broken)
    world.end_pod("tune-trainer-1-0", code, words.model_dump_json(by_alias=True, exclude_none=True))
    world.settle()
    assert world.status.phase == phase
    assert world.status.attempts[-1].reason == reason
    assert (world.condition("Healthy").status, world.condition("Healthy").reason) == ("False", "KlAboveBound")
    assert world.job is not None
    assert world.job["spec"]["runPolicy"].get("suspend") is suspended
    if suspended:
        world.edit_policy(suspend=False)
        world.run_all()
        assert world.status.attempt == 2
