"""The state machine of a job, as a table of what happens and what must follow."""

from __future__ import annotations

import json

import pytest

from plumbline_api.contract import StatusReport
from plumbline_api.status import DataStatus, MetricValue, RowCount
from plumbline_operator.model import Apply, Delete, DeleteJob, PostEvent, Refusal, WriteStatus
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import World


def running(**arguments: object) -> World:
    world = World(preference_job(**arguments))  # type: ignore[arg-type]
    world.run_all()
    return world


def words(**more: object) -> str:
    return json.dumps({"contractVersion": "v1", "reason": "Completed"} | more)


# acceptance


def test_the_snapshot_is_stored_before_anything_is_said_about_it() -> None:
    decision = World().decide()
    assert [type(step) for step in decision.steps] == [Apply]
    assert decision.again


def test_intent_is_written_before_it_is_carried_out() -> None:
    world = World()
    world.carry_out(world.decide().steps)
    opens = world.decide()
    assert [type(step) for step in opens.steps] == [PostEvent, WriteStatus]
    world.carry_out(opens.steps)
    assert world.status.attempt == 1
    assert [step.manifest["kind"] for step in world.decide().steps if isinstance(step, Apply)] == ["Service"]


def test_a_missing_runtime_is_told_and_waited_for() -> None:
    world = World(runtime=None)
    decision = world.settle()
    assert world.condition("Accepted").reason == "RuntimeNotFound"
    assert world.condition("Accepted").message == "spec.runtimeRef: there is no ClusterTrainerRuntime named torch-cpu"
    assert world.status.reason == "RuntimeNotFound"
    assert world.status.phase == "Pending"
    assert decision.requeue_after is None, "the runtime's own event brings the job back"


def test_a_runtime_that_is_invalid_is_told_as_the_runtimes_fault() -> None:
    world = World(runtime={"spec": {"image": "x", "imagePullPolicy": "Sometimes"}})
    world.settle()
    assert world.condition("Accepted").reason == "SpecInvalid"
    message = world.condition("Accepted").message
    assert message.startswith("spec.runtimeRef: ClusterTrainerRuntime torch-cpu is not valid: spec.imagePullPolicy: ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"objective": {}}, "spec.objective"),
        ({"objective": {"dpo": {}, "ipo": {}}}, "spec.objective"),
        ({"training": {"steps": 0}}, "spec.training.steps"),
        ({"training": {"stepz": 1}}, "spec.training.stepz"),
        ({"output": {"path": "/home/me/model"}}, "spec.output.path"),
        ({"runtimeRef": {"kind": "Deployment", "name": "x"}}, "spec.runtimeRef.kind"),
        ({"runtimeRef": None}, "spec.runtimeRef"),
    ],
)
def test_an_invalid_spec_names_its_field(change: dict[str, object], field: str) -> None:
    job = preference_job()
    job["spec"] |= change
    world = World(job)
    world.settle()
    assert world.condition("Accepted").reason == "SpecInvalid"
    assert f"{field}: " in world.condition("Accepted").message
    assert not world.created


def test_objects_of_an_earlier_job_of_this_name_are_waited_for() -> None:
    world = World()
    world.foreign = ("ConfigMap tune-snapshot",)
    assert world.settle().requeue_after
    assert "ConfigMap tune-snapshot" in world.condition("PodsReady").message
    world.foreign = ()
    world.settle()
    assert world.created == ["tune-trainer-1-0"]


def test_a_service_of_somebody_else_is_not_taken_over() -> None:
    world = World()
    world.carry_out(world.decide().steps)
    world.carry_out(world.decide().steps)
    world.foreign = ("Service tune-1",)
    decision = world.settle()
    assert not world.services
    assert world.condition("PodsReady").message.startswith("Service tune-1 must be gone first")
    assert decision.requeue_after is not None
    world.foreign = ()
    world.settle()
    assert "tune-trainer-1-0" in world.pods


def test_an_edit_of_the_fixed_part_is_told_and_not_applied() -> None:
    world = running()
    before = world.snapshot
    assert world.job
    world.job["spec"]["training"]["steps"] = 41
    world.job["metadata"]["generation"] = 2
    world.settle()
    condition = world.condition("Accepted")
    assert (condition.status, condition.reason) == ("True", "SpecChanged")
    assert "spec.training" in condition.message
    assert world.snapshot == before
    world.job["spec"]["training"]["steps"] = 40
    world.settle()
    assert world.condition("Accepted").reason == "Accepted"


# running


def test_all_pods_of_the_gang_are_made_at_once() -> None:
    world = World(preference_job(replicas=3))
    world.settle()
    assert world.created == [f"tune-trainer-1-{rank}" for rank in range(3)]
    assert world.status.phase == "Starting"


def test_the_job_runs_when_all_its_pods_do() -> None:
    world = World(preference_job(replicas=2))
    world.settle()
    world.run_pod("tune-trainer-1-0")
    world.settle()
    assert world.status.phase == "Starting"
    assert world.condition("PodsReady").message == "1 of 2 pods run"
    world.run_pod("tune-trainer-1-1")
    world.settle()
    assert world.status.phase == "Running"


def test_a_pod_that_never_ran_is_made_again_in_the_same_attempt() -> None:
    world = World(preference_job(replicas=2))
    world.settle()
    world.remove_pod("tune-trainer-1-1")
    world.settle()
    assert world.created.count("tune-trainer-1-1") == 2
    assert world.status.attempt == 1


def test_a_report_becomes_progress() -> None:
    world = running()
    world.report = StatusReport(state="training", attempt=1, step=10, max_steps=40, from_step=3, eta_seconds=12.6)
    world.settle()
    assert world.condition("Running").reason == "Training"
    assert (world.status.progress.text, world.status.progress.percent, world.status.progress.eta_seconds) == (
        "10/40",
        25,
        13,
    )
    assert (world.status.attempts[0].from_step, world.status.attempts[0].to_step) == (3, 10)


def test_the_counts_of_the_rows_are_kept_from_the_report_on() -> None:
    data = DataStatus(rows_read=10, rows_used=8, dropped=[RowCount(reason="Duplicate", rows=2)])
    world = running()
    world.report = StatusReport(state="training", attempt=1, step=1, max_steps=40, data=data)
    world.settle()
    assert world.status.data == data
    world.report = StatusReport(state="starting", attempt=1, step=1, max_steps=40)
    world.settle()
    assert world.status.data == data, "a trainer that starts anew has not counted yet"


def test_a_report_of_an_earlier_attempt_is_ignored() -> None:
    world = running()
    world.report = StatusReport(state="training", attempt=7, step=10, max_steps=40)
    world.settle()
    assert world.status.progress is None


def test_progress_alone_is_not_urgent_but_a_transition_is() -> None:
    world = running()
    world.report = StatusReport(state="training", attempt=1, step=1, max_steps=40)
    world.settle()
    world.report = StatusReport(state="training", attempt=1, step=2, max_steps=40)
    assert [step.urgent for step in world.decide().steps if isinstance(step, WriteStatus)] == [False]
    world.end_pod("tune-trainer-1-0", 0)
    assert [step.urgent for step in world.decide().steps if isinstance(step, WriteStatus)] == [True]


def test_time_alone_is_no_reason_to_write() -> None:
    world = running()
    world.pass_time(1000)
    assert not world.decide().steps
    world.report = StatusReport(state="training", attempt=1, step=1, max_steps=40)
    world.settle()
    assert world.status.usage.pod_seconds == 1000, "the bill is brought up to date with the next news"


def test_refused_pods_are_asked_for_again_later() -> None:
    world = World()
    for _ in range(3):
        world.carry_out(world.decide().steps)
    world.pods.clear()
    message = 'pods "tune-trainer-1-0" is forbidden: exceeded quota: small, requested: pods=1'
    world.refusals = (Refusal("Pod tune-trainer-1-0", 403, message),)
    decision = world.decide()
    assert not [step for step in decision.steps if isinstance(step, Apply)]
    assert decision.requeue_after == 5
    world.carry_out(decision.steps)
    assert world.condition("PodsReady").reason == "QuotaExceeded"
    world.refusals = ()
    world.settle()
    assert "tune-trainer-1-0" in world.pods


def test_asking_again_for_refused_pods_writes_nothing_while_the_answer_is_the_same() -> None:
    """Each write is an event that asks again: a refusal that was unsaid and said anew would never come to rest."""
    world = World(preference_job(replicas=2))
    world.quota_message = 'pods "tune-trainer-1-0" is forbidden: exceeded quota: small, used: pods=20'
    world.reconcile()
    assert world.condition("PodsReady").reason == "QuotaExceeded"
    for _ in range(3):
        assert world.reconcile() == []
    world.quota_message = world.quota_message.replace("20", "19")
    assert [write.urgent for write in world.reconcile()] == [False], "other words for the same thing can wait"
    world.quota_message = ""
    world.reconcile()
    assert world.condition("PodsReady").reason == "WaitingForPods"
    assert len(world.pods) == 2


def test_a_warning_of_the_trainer_is_told_once_and_kept() -> None:
    world = running()
    warning = "checkpoint step-20 is damaged (weights.safetensors) and was passed over"
    world.report = StatusReport(state="training", attempt=1, step=10, max_steps=40, warnings=[warning])
    assert [step.urgent for step in world.decide().steps if isinstance(step, WriteStatus)] == [True]
    world.settle()
    world.report = StatusReport(state="training", attempt=1, step=11, max_steps=40, warnings=[warning, "a second one"])
    world.settle()
    world.end_pod("tune-trainer-1-0", 75)
    world.run_all()
    world.report = StatusReport(state="training", attempt=2, step=12, max_steps=40, warnings=[warning])
    world.settle()
    told = [event.message for event in world.events if event.reason == "TrainerWarning"]
    assert told == [warning, "a second one"]
    assert world.status.warnings == [warning, "a second one"]


def test_of_many_warnings_the_oldest_are_dropped_and_none_is_told_twice() -> None:
    world = running()
    for first in (0, 10, 20):
        said = [f"warning {number}" for number in range(first, first + 16)]
        world.report = StatusReport(state="training", attempt=1, step=1, max_steps=40, warnings=said)
        world.settle()
        assert world.status.warnings == said
    told = [event.message for event in world.events if event.reason == "TrainerWarning"]
    assert told == [f"warning {number}" for number in range(36)]


def test_a_report_of_the_attempt_before_does_not_make_the_next_one_run() -> None:
    world = running()
    world.report = StatusReport(state="training", attempt=1, step=10, max_steps=40)
    world.end_pod("tune-trainer-1-0", 75)
    world.run_all()
    assert world.status.attempt == 2
    assert world.condition("Running").status == "False"


def test_a_metric_that_is_reported_twice_is_stored_once() -> None:
    world = running()
    metrics = [MetricValue(name="loss", value=2.0), MetricValue(name="loss", value=1.0)]
    world.report = StatusReport(state="training", attempt=1, step=1, max_steps=40, metrics=metrics)
    world.settle()
    assert [(metric.name, metric.value) for metric in world.status.metrics] == [("loss", 1.0)]


# ending


def test_a_job_is_complete_only_when_all_pods_succeeded() -> None:
    world = running(replicas=2)
    world.end_pod("tune-trainer-1-0", 0, words(output={"uri": "pvc://a/b", "digest": "d"}))
    world.settle()
    assert world.status.phase == "Running"
    world.end_pod("tune-trainer-1-1", 0)
    world.settle()
    assert world.status.phase == "Complete"
    assert world.condition("Complete").message == "training finished; the model is in pvc://a/b"
    assert world.status.completion_time == world.now
    assert world.pods, "ended pods stay for their logs"
    assert not world.services


def test_completion_is_final() -> None:
    world = running()
    world.end_pod("tune-trainer-1-0", 0)
    world.settle()
    world.set_policy(suspend=True, activeDeadlineSeconds=1)
    world.pods.clear()
    world.snapshot = None
    world.pass_time(1000)
    assert not world.decide().steps


@pytest.mark.parametrize("code", [64, 65, 66, 71, 72, 73, 74])
def test_a_failure_that_would_repeat_itself_fails_the_job(code: int) -> None:
    world = running()
    world.end_pod("tune-trainer-1-0", code)
    world.settle()
    assert world.status.phase == "Failed"
    assert world.status.last_failure.exit_code == code
    assert world.status.last_failure.log_tail == "log of tune-trainer-1-0"


@pytest.mark.parametrize(("code", "reason"), [(70, ""), (75, ""), (1, ""), (137, "OOMKilled"), (139, "")])
def test_other_failures_are_repeated_up_to_the_limit(code: int, reason: str) -> None:
    world = running(run_policy={"backoffLimit": 2})
    for attempt in (1, 2, 3):
        assert world.status.attempt == attempt
        world.end_pod(f"tune-trainer-{attempt}-0", code, reason=reason)
        world.settle()
        world.pass_time(1)
        if attempt < 3:
            world.run_all()
    assert world.status.phase == "Failed"
    assert world.status.failures == 3
    assert "runPolicy.backoffLimit is 2" in world.condition("Failed").message


def test_backoff_doubles_up_to_its_limit() -> None:
    world = running(run_policy={"backoffLimit": 9, "backoff": {"initialSeconds": 10, "maxSeconds": 60}})
    waits = []
    for attempt in range(1, 6):
        world.end_pod(f"tune-trainer-{attempt}-0", 75)
        waits.append(world.settle().requeue_after)
        world.pass_time(waits[-1] or 0)
        world.run_all()
    assert waits == [10, 20, 40, 60, 60]


def test_only_five_attempts_are_kept_but_all_are_counted() -> None:
    world = running(run_policy={"backoffLimit": 9})
    for attempt in range(1, 8):
        world.pass_time(10)
        world.end_pod(f"tune-trainer-{attempt}-0", 75)
        world.settle()
        world.run_all()
    assert [attempt.number for attempt in world.status.attempts] == [4, 5, 6, 7, 8]
    assert (world.status.restarts, world.status.failures) == (7, 7)
    assert world.status.usage.active_seconds == 70


def test_the_next_attempt_waits_until_no_pod_of_the_last_one_can_write() -> None:
    world = running(replicas=2)
    world.end_pod("tune-trainer-1-0", 70)
    world.settle()
    assert world.pods["tune-trainer-1-1"].stopping
    world.pass_time(5)
    world.settle()
    assert world.status.attempt == 1
    world.remove_pod("tune-trainer-1-1")
    world.settle()
    assert world.status.attempt == 2


def test_pods_of_an_earlier_attempt_are_cleared_even_after_a_crash_between_the_two() -> None:
    world = running()
    world.end_pod("tune-trainer-1-0", 75)
    world.carry_out(world.decide().steps)
    opens = world.decide().steps
    world.carry_out(opens[: [type(step) for step in opens].index(WriteStatus) + 1])
    assert (world.status.attempt, "tune-trainer-1-0" in world.pods) == (2, True)
    world.settle()
    assert set(world.pods) == {"tune-trainer-2-0"}
    assert set(world.services) == {"tune-2"}


def test_a_pod_on_a_dead_node_is_given_up_after_its_grace_period() -> None:
    world = running(replicas=2)
    world.end_pod("tune-trainer-1-0", 70)
    decision = world.settle()
    assert decision.requeue_after == 150, "120 s of grace and 30 s more"
    world.pass_time(150)
    deletes = [step for step in world.decide().steps if isinstance(step, Delete)]
    assert [(step.name, step.grace_seconds) for step in deletes] == [("tune-trainer-1-1", 0)]


@pytest.mark.parametrize("how", ["stopping", "gone"])
def test_a_pod_deleted_by_somebody_is_no_failure(how: str) -> None:
    world = running(run_policy={"backoffLimit": 0})
    world.stop_pod("tune-trainer-1-0")
    if how == "stopping":
        world.settle()
    world.remove_pod("tune-trainer-1-0")
    world.settle()
    assert (world.status.attempt, world.status.failures) == (2, 0)
    assert world.status.attempts[0].reason == "PodDeleted"


def test_a_cluster_that_keeps_deleting_pods_is_not_flooded() -> None:
    world = running(run_policy={"backoff": {"initialSeconds": 10, "maxSeconds": 60}})
    world.pass_time(3)
    world.remove_pod("tune-trainer-1-0")
    assert world.settle().requeue_after == 7, "10 s after the last start at the earliest"


def test_the_deadline_counts_running_time_over_all_attempts() -> None:
    world = running(run_policy={"activeDeadlineSeconds": 100, "backoff": {"initialSeconds": 50, "maxSeconds": 50}})
    world.pass_time(60)
    world.end_pod("tune-trainer-1-0", 75)
    world.settle()
    world.pass_time(50)
    world.run_all()
    assert world.decide().requeue_after == 40, "60 of 100 s are used, the backoff does not count"
    world.pass_time(40)
    world.settle()
    assert world.condition("Failed").reason == "DeadlineExceeded"
    assert world.pods["tune-trainer-2-0"].stopping


def test_the_job_is_deleted_when_its_time_to_live_is_over() -> None:
    world = running(run_policy={"ttlSecondsAfterFinished": 60})
    world.end_pod("tune-trainer-1-0", 0)
    assert world.settle().requeue_after == 60
    world.pass_time(60)
    assert DeleteJob("uid-1") in world.decide().steps


# suspension


def test_suspend_stops_pods_and_stays_open_until_they_are_gone() -> None:
    world = running()
    world.set_policy(suspend=True)
    world.settle()
    assert world.status.phase == "Suspending"
    assert world.pods["tune-trainer-1-0"].stopping
    world.end_pod("tune-trainer-1-0", 85)
    world.settle()
    assert world.status.phase == "Suspended"
    assert (world.status.attempts[0].reason, world.status.attempts[0].exit_code) == ("StoppedSaved", 85)
    world.set_policy(suspend=False)
    world.settle()
    assert (world.status.attempt, world.status.failures) == (2, 0)


@pytest.mark.parametrize("seen", ["before its attempt is closed", "after"])
def test_what_a_pod_said_before_it_was_gone_is_kept(seen: str) -> None:
    world = running()
    world.set_policy(suspend=True)
    world.settle()
    checkpoint = {"step": 7, "time": "2030-01-01T00:00:00Z", "uri": "u", "digest": "d", "verified": True}
    best = {"step": 3, "uri": "b", "metric": "accuracy", "value": 0.5}
    world.end_pod("tune-trainer-1-0", 85, words(reason="StoppedSaved", checkpoint=checkpoint, bestCheckpoint=best))
    world.remove_pod("tune-trainer-1-0")
    late, world.departed = world.departed, {} if seen == "after" else world.departed
    world.settle()
    assert world.status.phase == "Suspended"
    world.departed = late
    world.settle()
    assert (world.status.attempts[0].reason, world.status.attempts[0].exit_code) == ("StoppedSaved", 85)
    assert world.status.checkpoint.step == 7
    assert world.status.best_checkpoint.step == 3
    assert not world.decide().steps


def test_resuming_while_the_pods_still_stop_waits_for_them() -> None:
    world = running()
    world.set_policy(suspend=True)
    world.settle()
    world.set_policy(suspend=False)
    world.settle()
    assert world.status.attempt == 1
    world.remove_pod("tune-trainer-1-0")
    world.settle()
    assert (world.status.attempt, world.status.attempts[0].reason) == (2, "SuspendedByUser")


def test_a_suspended_job_runs_no_deadline_and_no_backoff() -> None:
    world = running(run_policy={"activeDeadlineSeconds": 100})
    world.pass_time(50)
    world.set_policy(suspend=True)
    world.settle()
    world.remove_pod("tune-trainer-1-0")
    assert world.settle().requeue_after is None
    world.pass_time(1000)
    assert not world.decide().steps
    assert world.status.usage.active_seconds == 50


def test_a_policy_that_cannot_be_read_resumes_nothing() -> None:
    world = running()
    world.set_policy(suspend=True, backoffLimit=-1)
    world.settle()
    assert world.pods["tune-trainer-1-0"].stopping
    world.end_pod("tune-trainer-1-0", 85)
    world.settle()
    assert world.status.phase == "Suspended"


def test_a_job_that_finishes_while_it_is_suspended_is_complete() -> None:
    world = running()
    world.set_policy(suspend=True)
    world.end_pod("tune-trainer-1-0", 0)
    world.settle()
    assert world.status.phase == "Complete"


def test_a_permanent_failure_during_suspension_is_told() -> None:
    world = running()
    world.set_policy(suspend=True)
    world.settle()
    world.end_pod("tune-trainer-1-0", 72)
    world.settle()
    assert world.condition("Failed").reason == "Diverged"


# deletion


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    world = running()
    assert world.job
    world.job["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    world.remove_pod("tune-trainer-1-0")
    assert world.decide().steps == ()


# events


def test_events_tell_transitions_once_in_the_words_of_the_condition() -> None:
    world = running()
    world.end_pod("tune-trainer-1-0", 65, words(message="train.jsonl line 3: no field chosen"))
    world.settle()
    told = [(event.type, event.reason, event.message) for event in world.events]
    assert ("Warning", "DataError", "train.jsonl line 3: no field chosen") in told
    assert len(told) == len(set(told))
