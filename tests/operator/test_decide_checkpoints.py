"""Checkpoints in the life of a job: time to save, damaged ones, and what preempting it would cost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from plumbline_api.contract import StatusReport
from plumbline_api.run_policy import RunPolicy
from plumbline_api.status import CheckpointStatus
from plumbline_operator.decide.grace import grace_of_deletion, grace_seconds, longest_save, needed_seconds, warning
from plumbline_operator.model import Annotate, Delete, WriteStatus
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import START, World


def running(replicas: int = 1, **policy: Any) -> World:
    world = World(preference_job(replicas=replicas, run_policy=policy))
    world.run_all()
    return world


def saved(world: World, step: int, save_seconds: float | None = None, seconds: float = 0) -> CheckpointStatus:
    return CheckpointStatus(
        step=step,
        time=world.now - timedelta(seconds=seconds),
        uri=f"pvc://results/tune/checkpoints/step-{step:08d}",
        digest=f"sha256:{step}",
        verified=True,
        save_seconds=save_seconds,
        size_bytes=1 << 30,
    )


def report(world: World, step: int, **fields: Any) -> None:
    attempt = world.status.attempt
    world.report = StatusReport(state="training", attempt=attempt, step=step, max_steps=40, **fields)
    world.settle()


# the grace period


@pytest.mark.parametrize(
    ("save_seconds", "needed"), [(0.2, 10), (14, 30), (15.1, 60), (61, 180), (400, 900), (100_000, 86_400)]
)
def test_the_needed_grace_is_twice_the_save_rounded_up(save_seconds: float, needed: int) -> None:
    assert needed_seconds(save_seconds) == needed
    assert needed >= min(2 * save_seconds, 86_400)


@pytest.mark.parametrize(
    ("spec", "save_seconds", "grace", "of_deletion", "warned"),
    [
        (None, None, 120, None, False),
        (None, 20.0, 120, None, False),
        (None, 100.0, 300, 300, False),
        (30, 20.0, 30, None, False),
        (30, 31.0, 30, None, True),
        (600, 100.0, 600, None, False),
    ],
)
def test_the_grace_follows_from_the_spec_or_from_measured_saves(
    spec: int | None, save_seconds: float | None, grace: int, of_deletion: int | None, warned: bool
) -> None:
    policy = RunPolicy(termination_grace_period_seconds=spec)
    assert grace_seconds(policy, save_seconds) == grace
    assert grace_of_deletion(policy, save_seconds) == of_deletion
    assert bool(warning(policy, save_seconds)) == warned


def test_the_longest_save_counts_and_does_not_flicker() -> None:
    assert longest_save(None, None) is None
    assert longest_save(None, 12.345) == 12
    assert longest_save(12, None) == 12
    assert longest_save(12, 11.9) == 12
    assert longest_save(12, 130.4) == 130


def test_pods_get_the_time_that_saving_takes() -> None:
    world = running()
    assert world.manifests["tune-trainer-1-0"]["spec"]["terminationGracePeriodSeconds"] == 120
    report(world, 5, checkpoint=saved(world, 5, save_seconds=140.0))
    assert world.status.save_seconds == 140
    world.edit_policy(suspend=True)
    stops = [step for step in world.decide().steps if isinstance(step, Delete)]
    assert [step.grace_seconds for step in stops] == [300], "the pod that runs was made before anything was measured"
    world.settle()
    world.remove_pod("tune-trainer-1-0")
    world.settle()
    world.edit_policy(suspend=False)
    world.settle()
    assert world.manifests["tune-trainer-2-0"]["spec"]["terminationGracePeriodSeconds"] == 300


def test_a_grace_period_that_is_too_short_is_told_once() -> None:
    world = running(terminationGracePeriodSeconds=30)
    for step, seconds in ((5, 3.0), (10, 47.0), (15, 47.2), (20, 44.0)):
        report(world, step, checkpoint=saved(world, step, save_seconds=seconds))
    told = [event for event in world.events if event.reason == "GracePeriodTooShort"]
    assert len(told) == 1
    assert told[0].type == "Warning"
    assert told[0].message.endswith("120 would be enough")
    assert world.manifests["tune-trainer-1-0"]["spec"]["terminationGracePeriodSeconds"] == 30


# damaged ones


def test_a_damaged_checkpoint_is_named_once_and_the_one_before_stands() -> None:
    world = running()
    report(world, 25, checkpoint=saved(world, 20))
    world.end_pod("tune-trainer-1-0", 75)
    world.run_all()
    damage = "checkpoint step-00000020 is damaged and was passed over: weights.safetensors has 12 bytes, not 4096"
    for step in (10, 11):
        report(world, step, from_step=10, checkpoint=saved(world, 10), damaged_checkpoints=[damage])
    told = [event.message for event in world.events if event.reason == "CheckpointDamaged"]
    assert told == [damage]
    assert world.status.damaged_checkpoints == [damage]
    assert world.status.checkpoint.step == 10
    assert world.status.attempts[-1].from_step == 10


def test_damage_is_told_by_the_last_words_of_a_short_attempt_too() -> None:
    world = running()
    damage = "checkpoint step-00000020 is damaged and was passed over: manifest.json is missing"
    words = f'{{"reason": "InfrastructureError", "damagedCheckpoints": ["{damage}"]}}'
    world.end_pod("tune-trainer-1-0", 75, words)
    world.settle()
    assert [event.message for event in world.events if event.reason == "CheckpointDamaged"] == [damage]


# what preempting the job would cost


def annotations(world: World) -> list[Annotate]:
    return [step for step in world.decide().steps if isinstance(step, Annotate)]


def test_pods_tell_the_time_of_the_newest_checkpoint() -> None:
    world = running(replicas=2)
    world.pass_time(300)
    world.report = StatusReport(
        state="training", attempt=1, step=9, max_steps=40, checkpoint=saved(world, 8, seconds=20)
    )
    told = annotations(world)
    assert [step.name for step in told] == ["tune-trainer-1-0", "tune-trainer-1-1"]
    assert told[0].annotations == {
        "plumbline.dev/checkpoint-time": (START + timedelta(seconds=280)).isoformat().replace("+00:00", "Z"),
        "plumbline.dev/checkpoint-step": "8",
    }
    world.settle()
    assert world.annotated == ["tune-trainer-1-0", "tune-trainer-1-1"], "and that once"


def test_frequent_checkpoints_are_not_written_to_pods_each_time() -> None:
    world = running()
    for step in range(1, 31):
        world.pass_time(10)
        report(world, step, checkpoint=saved(world, step))
    assert len(world.annotated) == 5, "300 s at one a minute"


def test_a_checkpoint_from_before_the_pods_is_no_news() -> None:
    world = running()
    report(world, 5, checkpoint=saved(world, 5, seconds=500))
    assert not world.annotated


def test_a_new_annotation_is_no_reason_to_write_the_status() -> None:
    world = running()
    world.pass_time(300)
    report(world, 8, checkpoint=saved(world, 8))
    world.pods["tune-trainer-1-0"] = world.pods["tune-trainer-1-0"].__class__(
        **{**vars(world.pods["tune-trainer-1-0"]), "checkpoint_time": None}
    )
    assert not [step for step in world.decide().steps if isinstance(step, WriteStatus)]
    assert len(annotations(world)) == 1
