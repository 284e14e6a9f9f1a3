"""The ledger adds up: every second since a job was created is in one state, whatever happens in whatever order."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from plumbline_api.contract import StallReport, StatusReport, TerminationMessage
from plumbline_api.status import Attempt, RunTime, SettledTime
from plumbline_operator.decide.ledger import (
    HOLDING,
    SPENT,
    AttemptFacts,
    settle,
    split_attempt,
    split_gap,
    states_of,
)
from plumbline_operator.decide.usage import update_usage
from plumbline_operator.pods import ContainerView
from plumbline_operator.snapshot import read_snapshot
from plumbline_trainer.reporting.run_clock import RunClock
from tests.operator.job_documents import RUNTIME, preference_job
from tests.operator.simulated_world import START, World

GPUS = 4
REPLICAS = 2


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def attempt(**times: Any) -> Attempt:
    return Attempt(number=1, start_time=at(0), **times)


def measured(started: float, state: str = "training", **seconds: Any) -> RunTime:
    return RunTime.model_validate({"started": at(started), "state": state, **seconds})


# one attempt

RUN = {"starting": 10, "working": 50, "checkpointing": 5}
SPLITS: list[tuple[str, AttemptFacts, float, dict[str, float], float | None]] = [
    ("no node yet", AttemptFacts(attempt()), 60, {"queued": 60}, None),
    ("images are pulled", AttemptFacts(attempt(scheduled_time=at(20))), 60, {"queued": 20, "starting": 40}, None),
    (
        "it works since the last report",
        AttemptFacts(attempt(scheduled_time=at(20), time=measured(30, useful=50, saved=40, **RUN))),
        100,
        {"queued": 20, "starting": 20, "working": 55, "checkpointing": 5},
        55,
    ),
    (
        "it saves since the last report",
        AttemptFacts(attempt(scheduled_time=at(20), time=measured(30, "checkpointing", useful=50, saved=40, **RUN))),
        100,
        {"queued": 20, "starting": 20, "working": 50, "checkpointing": 10},
        50,
    ),
    (
        "after its last words it only ended",
        AttemptFacts(
            attempt(scheduled_time=at(20), time=measured(30, useful=50, saved=50, **RUN)), said_last_words=True
        ),
        100,
        {"queued": 20, "starting": 20, "working": 50, "checkpointing": 5, "stopping": 5},
        50,
    ),
    (
        "a stall counts from its beginning",
        AttemptFacts(
            attempt(scheduled_time=at(20), time=measured(30, useful=50, saved=40, **RUN)), stalled_since=at(85)
        ),
        200,
        {"queued": 20, "starting": 20, "working": 40, "checkpointing": 5, "stalled": 115},
        40,
    ),
    (
        "nobody looked after the pods had ended",
        AttemptFacts(attempt(scheduled_time=at(20), time=measured(30, useful=50, **RUN)), pods_ended=at(97)),
        1000,
        {"queued": 20, "starting": 20, "working": 52, "checkpointing": 5, "unattended": 903},
        52,
    ),
    (
        "a clock that runs fast",
        AttemptFacts(attempt(scheduled_time=at(0), time=measured(0, starting=100, working=100, useful=100))),
        100,
        {"starting": 50, "working": 50},
        100,
    ),
    (
        "a clock that is behind",
        AttemptFacts(attempt(scheduled_time=at(20), time=measured(-500, working=30, useful=30))),
        60,
        {"queued": 20, "working": 40},
        40,
    ),
]


@pytest.mark.parametrize(
    ("facts", "until", "expected", "useful"), [case[1:] for case in SPLITS], ids=[case[0] for case in SPLITS]
)
def test_an_attempt_is_split(
    facts: AttemptFacts, until: float, expected: dict[str, float], useful: float | None
) -> None:
    split = split_attempt(facts, at(until))
    assert {name: seconds for name, seconds in split.seconds.items() if seconds} == pytest.approx(expected)
    assert sum(split.seconds.values()) == pytest.approx(until)
    assert split.useful == useful


@pytest.mark.parametrize(
    ("phase", "pods_ended", "expected"),
    [
        ("", None, {"queued": 100}),
        ("Pending", None, {"queued": 100}),
        ("Restarting", None, {"backing_off": 100}),
        ("Restarting", 30, {"stopping": 20, "backing_off": 80}),
        ("Suspended", 5, {"suspended": 100}),
        ("Suspending", 500, {"stopping": 100}),
        ("Starting", None, {"queued": 100}),
    ],
)
def test_the_time_between_attempts_is_split(phase: str, pods_ended: float | None, expected: dict[str, float]) -> None:
    found = split_gap(phase, at(10), None if pods_ended is None else at(pods_ended), at(110))
    assert {name: seconds for name, seconds in found.items() if seconds} == expected


def test_work_is_productive_as_far_as_the_run_is_made_of_it() -> None:
    settled = settle(SettledTime(until=at(0)), {"working": 100, "starting": 20}, at(120), 70)
    assert {name: value for name, value in states_of(settled).items() if value} == {
        "starting": 20,
        "productive": 70,
        "redone": 30,
    }
    facts = AttemptFacts(attempt(scheduled_time=at(0), time=measured(0, working=40, useful=60)))
    # the second attempt fell back to a checkpoint behind which only 20 s of work are
    states = states_of(settled, split_attempt(facts, at(40)))
    assert (states["productive"], states["redone"]) == (60, 80)


# whole jobs


class Trainer:
    """What a trainer does with its time, and what it says about it; the clock is the trainer's own."""

    def __init__(self, world: World, saved: float) -> None:
        self.world = world
        self.clock = RunClock(lambda: (world.now - START).total_seconds(), world.now)
        self.restored = saved
        self.training = False

    def train(self, seconds: float) -> None:
        if not self.training:
            self.clock.settle()
            self.clock.restored(self.restored)
            self.training = True
        self.clock.enter("training")
        self.world.pass_time(seconds)
        self.clock.settle()

    def save(self, seconds: float) -> float:
        self.clock.enter("checkpointing")
        self.world.pass_time(seconds)
        self.clock.saved()
        self.clock.enter("training")
        return self.clock.useful or 0.0

    def roll_back(self, seconds: float, saved: float) -> None:
        self.clock.enter("starting")
        self.world.pass_time(seconds)
        self.clock.settle()
        self.clock.restored(saved)
        self.clock.enter("training")

    def report(self, number: int) -> StatusReport:
        return StatusReport(attempt=number, state="training", step=1, max_steps=9, time=self.clock.report())

    def words(self, reason: str) -> str:
        self.clock.enter("stopping")
        message = TerminationMessage(reason=reason, step=1, max_steps=9, time=self.clock.report())
        return message.model_dump_json(by_alias=True, exclude_none=True)


def gpu_job(**policy: Any) -> dict[str, Any]:
    job = preference_job(replicas=REPLICAS, run_policy=policy)
    job["spec"]["resources"]["gpus"] = GPUS
    job["metadata"]["creationTimestamp"] = START.isoformat()
    return job


def priced_world(**policy: Any) -> World:
    prices = {"currency": "EUR", "gpuHour": 2.5, "podHour": 0.1}
    return World(gpu_job(**policy), {**RUNTIME, "spec": {**RUNTIME["spec"], "prices": prices}})


def states(world: World) -> dict[str, float]:
    usage = world.status.usage
    return {one.state: one.seconds for one in usage.states}


def check(world: World) -> None:
    """The ledger of the status, as of now, against the clock."""
    usage = world.status.usage
    passed = (world.status.completion_time or world.now) - START
    total = passed.total_seconds()
    tolerance = 0.01 + 0.001 * (len(SPENT) + 2) * (world.status.attempt + 1)
    assert sum(one.seconds for one in usage.states) == pytest.approx(total, abs=tolerance)
    gpus = GPUS * REPLICAS
    assert sum(one.gpu_seconds for one in usage.states) == pytest.approx(total * gpus, abs=gpus * tolerance)
    held = sum(one.seconds for one in usage.states if one.state in HOLDING)
    assert usage.gpu_seconds == pytest.approx(held * gpus, abs=1)
    assert usage.cost == pytest.approx((held * gpus * 2.5 + held * REPLICAS * 0.1) / 3600, abs=0.01)
    assert usage.currency == "EUR"
    if held > 1:
        assert usage.goodput == pytest.approx(states(world).get("productive", 0.0) / held, abs=0.01)


def start_pods(world: World, pull_seconds: float = 0.0) -> None:
    """Nodes for all pods, and after the images are there their containers."""
    for name, pod in world.pods.items():
        if pod.phase == "Pending" and not pod.stopping:
            world.pods[name] = dataclasses.replace(pod, node="node-1", scheduled=True, bound=world.now)
    world.settle()
    world.pass_time(pull_seconds)
    for name, pod in world.pods.items():
        if pod.phase == "Pending" and not pod.stopping:
            world.run_pod(name)
    world.settle()


def kill_pods(world: World, code: int, words: str = "") -> None:
    for name, pod in sorted(world.pods.items()):
        if pod.phase == "Running":
            started = pod.containers[0].started
            message = words if pod.rank == 0 else ""
            ended = ContainerView("trainer", exit_code=code, message=message, started=started, finished=world.now)
            phase = "Succeeded" if code == 0 else "Failed"
            world.pods[name] = dataclasses.replace(pod, phase=phase, containers=(ended,))


def test_the_time_of_a_job_with_a_kill_and_a_rollback_goes_where_it_belongs() -> None:
    world = priced_world(backoff={"initialSeconds": 30, "maxSeconds": 30})
    for name in world.pods:
        world.pods[name] = dataclasses.replace(world.pods[name], scheduled=False)
    world.settle()
    world.pass_time(60)
    start_pods(world, pull_seconds=20)
    trainer = Trainer(world, 0)
    world.pass_time(10)
    trainer.train(100)
    saved = trainer.save(5)
    trainer.train(40)
    world.report = trainer.report(1)
    world.settle()
    world.pass_time(8)  # not reported any more
    kill_pods(world, 137)
    world.settle()
    assert states(world) == {
        "queued": 60, "starting": 30, "productive": 100, "checkpointing": 5, "redone": 48,
    }  # fmt: skip
    world.pass_time(30)
    world.settle()
    world.report = None
    start_pods(world, pull_seconds=7)
    second = Trainer(world, saved)
    second.train(50)
    second.roll_back(3, 100.0)
    second.train(25)
    kill_pods(world, 0, second.words("Completed"))
    world.settle()
    assert world.status.phase == "Complete"
    assert states(world) == {
        "queued": 60, "backingOff": 30, "starting": 40, "productive": 125, "checkpointing": 5, "redone": 98,
    }  # fmt: skip
    check(world)


def test_a_stall_is_time_in_which_nothing_was_done() -> None:
    world = priced_world(progressDeadlineSeconds=0)
    start_pods(world)
    world.settle()
    start_pods(world)
    trainer = Trainer(world, 0)
    trainer.train(100)
    report = trainer.report(1)
    world.pass_time(600)
    stall = StallReport(since=at(100), deadline_seconds=60, state="training")
    world.report = report.model_copy(update={"stall": stall})
    world.settle()
    assert states(world) == {"productive": 100, "stalled": 600}
    world.report = report.model_copy(update={"step": 2})
    world.settle()
    assert states(world) == {"productive": 700}, "it was only slow: the step was done in the end"


@pytest.mark.parametrize("back", [1, 45, 4000])
def test_no_second_counts_twice_when_the_clock_goes_back(back: int) -> None:
    world = priced_world(backoff={"initialSeconds": 30, "maxSeconds": 30})
    start_pods(world)
    world.pass_time(100)
    kill_pods(world, 137)
    world.settle()
    world.pass_time(30)
    world.settle()
    start_pods(world)
    world.pass_time(50)
    latest = world.now
    world.settle()
    world.pass_time(-back)
    world.set_policy(suspend=True)
    for _ in range(3):
        world.settle()
        for name in [name for name, pod in world.pods.items() if pod.stopping]:
            world.remove_pod(name)
    assert world.status.phase == "Suspended"
    last = world.status.attempts[-1]
    assert last.end_time >= last.start_time
    world.now = latest + timedelta(seconds=20)
    world.set_policy(suspend=False)
    world.settle()
    check(world)


class Timeline(RuleBasedStateMachine):
    """Random lives of one job: attempts, polls, saves, rollbacks, kills, stops, operators that are away."""

    def __init__(self) -> None:
        super().__init__()
        self.world = priced_world(backoffLimit=1000, backoff={"initialSeconds": 5, "maxSeconds": 40})
        self.saves = [0.0]
        self.trainer: Trainer | None = None

    def running(self) -> bool:
        pods = [pod for pod in self.world.pods.values() if pod.attempt == self.world.status.attempt]
        return len(pods) == REPLICAS and all(pod.phase == "Running" and not pod.stopping for pod in pods)

    def over(self) -> bool:
        return self.world.status.phase in ("Complete", "Failed")

    @rule(seconds=st.integers(1, 300))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule()
    def the_operator_settles(self) -> None:
        self.world.settle()
        self.it_adds_up()

    @rule(steps=st.integers(0, 4))
    def the_operator_dies_after_some_steps(self, steps: int) -> None:
        self.world.carry_out(self.world.decide().steps[:steps])

    @rule(pull=st.integers(0, 60))
    def pods_start(self, pull: int) -> None:
        self.world.settle()
        before = self.running()
        start_pods(self.world, pull)
        if not before and self.running():
            self.trainer = Trainer(self.world, self.saves[-1])

    @precondition(lambda self: self.trainer and self.running())
    @rule(seconds=st.integers(1, 200))
    def it_trains(self, seconds: int) -> None:
        assert self.trainer is not None
        self.trainer.train(seconds)

    @precondition(lambda self: self.trainer and self.trainer.training and self.running())
    @rule(seconds=st.integers(1, 20))
    def it_saves(self, seconds: int) -> None:
        assert self.trainer is not None
        self.saves.append(self.trainer.save(seconds))

    @precondition(lambda self: self.trainer and self.trainer.training and self.running())
    @rule(data=st.data(), seconds=st.integers(1, 20))
    def it_rolls_back(self, data: st.DataObject, seconds: int) -> None:
        assert self.trainer is not None
        kept = data.draw(st.integers(1, len(self.saves)))
        self.saves = self.saves[:kept]
        self.trainer.roll_back(seconds, self.saves[-1])

    @precondition(lambda self: self.trainer and self.running())
    @rule()
    def the_operator_polls(self) -> None:
        assert self.trainer is not None
        self.world.report = self.trainer.report(self.world.status.attempt)

    @precondition(lambda self: self.trainer and self.running())
    @rule(code=st.sampled_from([70, 75, 137]), speaks=st.booleans())
    def it_is_killed(self, code: int, speaks: bool) -> None:
        assert self.trainer is not None
        kill_pods(self.world, code, self.trainer.words("InfrastructureError") if speaks and code != 137 else "")
        self.trainer = None

    @rule(suspend=st.booleans())
    def the_user_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.set_policy(suspend=suspend)

    @precondition(lambda self: any(pod.stopping for pod in self.world.pods.values()))
    @rule(saves=st.booleans())
    def stopping_pods_go(self, saves: bool) -> None:
        if self.trainer is not None and self.trainer.training and saves:
            self.saves.append(self.trainer.save(1))
        for name, pod in list(self.world.pods.items()):
            if pod.stopping:
                self.world.remove_pod(name)
        self.trainer = None

    def it_adds_up(self) -> None:
        """The ledger as it would be written now."""
        stored = self.world.status
        if self.over() or self.world.snapshot is None or stored.usage is None:
            return
        status = stored.model_copy(deep=True)
        update_usage(stored, status, self.world.observe(), read_snapshot(self.world.snapshot), self.world.now)
        assert status.usage is not None
        passed = (self.world.now - START).total_seconds()
        assert sum(one.seconds for one in status.usage.states) == pytest.approx(passed, abs=0.05)

    def teardown(self) -> None:
        """Left in peace it completes, and what the model is made of is what was productive."""
        self.world.set_policy(suspend=False)
        for _ in range(4):
            self.world.settle()
            for name, pod in list(self.world.pods.items()):
                if pod.stopping:
                    self.world.remove_pod(name)
                    self.trainer = None
            self.world.pass_time(100)
        self.world.settle()
        self.pods_start(1)
        assert self.running() or self.over()
        if not self.over():
            trainer = self.trainer = self.trainer or Trainer(self.world, self.saves[-1])
            trainer.train(10)
            useful = trainer.clock.useful
            kill_pods(self.world, 0, trainer.words("Completed"))
            self.world.settle()
            # less where an attempt was killed before anybody had asked it: that one counts as starting
            assert 0 < states(self.world)["productive"] <= (useful or 0.0) + 0.05
        check(self.world)


TestTimeline = Timeline.TestCase
TestTimeline.settings = settings(
    max_examples=6,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
