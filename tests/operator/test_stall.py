"""Stalls: what the trainer says of itself, and what the operator concludes about one that says nothing any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from plumbline_api.contract import StallReport, StatusReport
from plumbline_api.run_policy import RunPolicy
from plumbline_api.status import Attempt
from plumbline_operator.decide.attempts import Gang
from plumbline_operator.decide.stall import SILENT_SECONDS, UNKNOWN_DEADLINE_SECONDS, stall_finding
from plumbline_operator.pods import PodView
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import World

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
LOG = "thread MainThread:\n{}. Stacks of all threads: see above\n"


def ago(seconds: float) -> datetime:
    return NOON - timedelta(seconds=seconds)


def gang(replicas: int = 1, **attempt: object) -> Gang:
    pods = tuple(PodView(f"pod-{rank}", f"uid-{rank}", 1, rank, phase="Running") for rank in range(replicas))
    known: dict[str, object] = {"number": 1, "running_time": ago(9000), "to_step": 7, **attempt}
    return Gang(Attempt(**known), replicas, pods)  # type: ignore[arg-type]


def report(
    *, progress: float = 0, deadline: float = 300, stalled: float | None = None, step: int = 0, at: str = "f (x.py:1)"
):  # type: ignore[no-untyped-def]
    """A report of a trainer that made progress so many seconds ago, and says since when it stalls, if it does."""
    stall = None
    if stalled is not None:
        stall = StallReport(
            since=ago(stalled), deadline_seconds=deadline, state="training", location=at, stacks="thread MainThread"
        )
    return StatusReport(
        state="training", step=step, last_progress_time=ago(progress), stall_deadline_seconds=deadline, stall=stall
    )


STALLS = {
    "the trainer says so": (gang(), report(stalled=301, progress=301), 0.0, None),
    "it says so and a longer deadline has passed too": (gang(), report(stalled=301), 0.0, 200),
    "it says nothing any more, long after its last step": (gang(), report(progress=361), SILENT_SECONDS, None),
    "it was never heard by this operator, but by the one before": (
        gang(),
        None,
        UNKNOWN_DEADLINE_SECONDS,
        None,
    ),
    "the deadline has been shortened since": (gang(), report(progress=116, step=9), 0.0, 100),
    "the same with a deadline": (gang(), None, 100.0, 100),
}
FINE = {
    "a shorter deadline, just passed: its report may be old": (gang(), report(progress=110, step=9), 0.0, 100),
    "a shorter deadline, and it is in its first step": (gang(), report(progress=299), 0.0, 100),
    "it makes progress": (gang(), report(progress=299), 0.0, None),
    "it answers, and knows better": (gang(), report(progress=5000), 30.0, None),
    "the deadline has been raised since": (gang(), report(stalled=301), 0.0, 600),
    "stalls are switched off": (gang(), report(stalled=301), 0.0, 0),
    "silent, and within the deadline": (gang(), report(progress=120), 100.0, None),
    "nobody ever heard it": (gang(to_step=None), None, 1e6, None),
    "its pods do not run yet": (gang(running_time=None), None, 1e6, None),
}


@pytest.mark.parametrize("name", STALLS)
def test_a_run_that_hangs_is_found(name: str) -> None:
    pods, said, silent, given = STALLS[name]
    finding, _ = stall_finding(pods, said, silent, {}, RunPolicy(progress_deadline_seconds=given), NOON)
    assert finding is not None
    assert finding.reason == "Stalled"
    assert finding.counts and not finding.permanent


@pytest.mark.parametrize("name", FINE)
def test_a_run_that_may_get_on_is_left_alone(name: str) -> None:
    pods, said, silent, given = FINE[name]
    finding, left = stall_finding(pods, said, silent, {}, RunPolicy(progress_deadline_seconds=given), NOON)
    assert finding is None
    assert left is None or left > 0


def test_the_message_says_where_it_hangs_and_the_stacks_are_kept() -> None:
    finding, _ = stall_finding(gang(), report(stalled=301), 0.0, {}, RunPolicy(), NOON)
    assert finding is not None and finding.pod is not None
    assert finding.message == "no progress for 300 s while training; the main thread is in f (x.py:1)"
    assert finding.details == "thread MainThread"


def test_of_a_gang_the_rank_is_named_that_does_not_wait_for_the_others() -> None:
    waits = "all_reduce (distributed_c10d.py:9) < sum (distributed.py:63)"
    text = "no progress for 300 s while training; the main thread is in "
    logs = {"pod-0": LOG.format(text + waits), "pod-1": LOG.format(text + "read (files.py:3)")}
    finding, _ = stall_finding(gang(2), report(stalled=301, at=waits), 0.0, logs, RunPolicy(), NOON)
    assert finding is not None and finding.pod is not None
    assert finding.pod.name == "pod-1"
    assert finding.message.endswith("the main thread of rank 1 is in read (files.py:3)")


def test_the_next_look_at_a_trainer_that_answers_is_when_it_would_be_overdue() -> None:
    _, left = stall_finding(gang(), report(progress=100), 0.0, {}, RunPolicy(), NOON)
    assert left == 300 + SILENT_SECONDS - 100


@pytest.mark.parametrize(
    ("to_step", "silent", "left"), [(7, 0.0, None), (0, 59.8, None), (7, 61.0, 1739.0), (None, 61.0, None)]
)
def test_a_trainer_that_an_operator_has_not_heard_is_looked_at_again_once_it_is_silent_if_another_one_had_heard_it(
    to_step: int | None, silent: float, left: float | None
) -> None:
    assert stall_finding(gang(to_step=to_step), None, silent, {}, RunPolicy(), NOON) == (None, left)


def test_a_trainer_that_hangs_without_an_answer_is_found_by_an_operator_that_starts_anew() -> None:
    world = training(backoffLimit=0)
    world.report = None
    start = world.now
    assert world.settle().requeue_after is None, "with thousands of jobs each timer is one more look"
    world.pass_time(SILENT_SECONDS)  # at which the puller asks for a look
    world.silent_seconds = SILENT_SECONDS
    while world.status.phase == "Running":
        decision = world.settle()
        assert world.status.phase != "Running" or decision.requeue_after is not None, "nothing else looks again"
        world.pass_time(decision.requeue_after or 0)
        world.silent_seconds = (world.now - start).total_seconds()
    assert world.condition("Failed").reason == "Stalled"


def training(**policy: object) -> World:
    """A job whose trainer has reported steps."""
    world = World(preference_job(run_policy={"backoffLimit": 1, **policy}))
    world.run_all()
    world.report = StatusReport(state="training", step=3, max_steps=40, last_progress_time=world.now)
    world.settle()
    return world


def stalls(world: World) -> None:
    """Time passes, and the trainer says that it stalls."""
    world.pass_time(400)
    since = world.now - timedelta(seconds=400)
    stall = StallReport(since=since, deadline_seconds=300, state="training", location="f (x.py:1)", stacks="main: f")
    world.report = StatusReport(state="training", step=3, max_steps=40, last_progress_time=since, stall=stall)


def test_progressing_is_true_while_steps_are_done() -> None:
    condition = training().condition("Progressing")
    assert (condition.status, condition.reason) == ("True", "Training")


def test_a_stalled_attempt_is_told_and_repeated() -> None:
    world = training()
    stalls(world)
    world.settle()
    condition = world.condition("Progressing")
    assert (condition.status, condition.reason) == ("False", "Stalled")
    assert "the main thread is in f (x.py:1)" in condition.message
    failure = world.status.last_failure
    assert (failure.reason, failure.log_tail) == ("Stalled", "main: f"), "there is no log: the stacks stand in"
    assert (world.status.phase, world.status.failures) == ("Restarting", 1)
    assert [event.message for event in world.events if event.reason == "Stalled"] == [condition.message]


def test_a_job_that_stalls_more_often_than_it_may_fails_with_that_reason() -> None:
    world = training(backoffLimit=0)
    stalls(world)
    world.settle()
    assert world.condition("Failed").reason == "Stalled"
    assert world.condition("Progressing").status == "False"


def test_stalls_may_be_switched_off_while_the_job_runs() -> None:
    world = training()
    world.set_policy(progressDeadlineSeconds=0)
    stalls(world)
    world.settle()
    assert world.status.phase == "Running"


def test_suspension_is_not_progress() -> None:
    world = training()
    world.set_policy(suspend=True)
    world.settle()
    world.end_pod("tune-trainer-1-0", 85)
    world.settle()
    assert world.condition("Progressing").status == "False"
