"""The life of jobs on a real API server: what a user sees of each way that a run can go."""

from __future__ import annotations

import json

import pytest

from plumbline_api.contract import EXIT_REASONS, RETRYABLE_EXIT_CODES, ExitCode
from tests.operator.job_documents import preference_job, rlvr_job
from tests.operator.live_cluster import GROUP, Namespace, OperatorProcess, condition, eventually
from tests.operator.simulated_kubelet import PodLife

pytestmark = pytest.mark.control_plane

FAILURES = {
    code: reason
    for code, reason in EXIT_REASONS.items()
    if code not in (ExitCode.DONE, ExitCode.STOPPED_SAVED, ExitCode.STOPPED_NOT_SAVED)
}


def last_words(reason: str = "Completed", **more: object) -> str:
    return json.dumps({"contractVersion": "v1", "reason": reason, "step": 40, "maxSteps": 40, **more})


def by_attempt(*lives: PodLife):
    """Policy: the n-th attempt lives the n-th life, later ones the last."""
    return lambda pod: lives[min(int(pod["metadata"]["labels"]["plumbline.dev/attempt"]), len(lives)) - 1]


def test_a_job_runs_to_complete_and_shows_its_result(namespace: Namespace) -> None:
    words = last_words(
        score={"name": "evaluation/accuracy", "value": 0.9375},
        metrics=[{"name": "loss", "value": 0.25}],
        output={"uri": "pvc://results/tune", "digest": "sha256:1"},
    )
    namespace.pods_do(lambda _: PodLife(message=words))
    namespace.create(preference_job())
    status = namespace.wait_phase("tune", "Complete")
    assert condition(status, "Complete")["status"] == "True"
    assert status["output"] == {"uri": "pvc://results/tune", "digest": "sha256:1"}
    assert status["score"] == "0.9375"
    assert status["metrics"] == [{"name": "loss", "value": 0.25}]
    assert (status["progress"]["text"], status["progress"]["percent"]) == ("40/40", 100)
    assert status["objective"] == "dpo"
    eventually(
        lambda: namespace.children("tune") == {"pods/tune-trainer-1-0", "configmaps/tune-snapshot"},
        "removal of the Service",
    )
    assert ("Completed", "training finished; the model is in pvc://results/tune") in namespace.events("tune")


def test_a_gang_of_pods_completes_when_all_have_ended(namespace: Namespace) -> None:
    namespace.create(preference_job(replicas=3))
    namespace.wait_phase("tune", "Complete")
    pods = namespace.items("pods")
    assert sorted(pod["metadata"]["name"] for pod in pods) == [f"tune-trainer-1-{rank}" for rank in range(3)]
    environment = {
        rank: {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}
        for rank, pod in enumerate(sorted(pods, key=lambda pod: pod["metadata"]["name"]))
    }
    assert [environment[rank]["RANK"] for rank in range(3)] == ["0", "1", "2"]
    assert environment[1]["MASTER_ADDR"].startswith("10.96."), "the cluster IP of the attempt's Service"


def test_an_rlvr_job_runs_too(namespace: Namespace) -> None:
    namespace.create(rlvr_job())
    assert namespace.wait_phase("reason", "Complete", "RLVRJob")["objective"] == "grpo"


def test_progress_is_pulled_from_rank_0(namespace: Namespace) -> None:
    report = {"state": "training", "step": 10, "maxSteps": 40, "etaSeconds": 30.2, "tokensPerSecond": 1234.56}
    namespace.pods_do(lambda _: PodLife(exit_code=None, report=report))
    namespace.create(preference_job())
    namespace.wait_condition("tune", "Running", "Training")
    progress = eventually(lambda: namespace.status("tune").get("progress"), "progress")
    assert progress == {
        "step": 10,
        "maxSteps": 40,
        "percent": 25,
        "etaSeconds": 30,
        "tokensPerSecond": 1235,
        "text": "10/40",
    }


@pytest.mark.parametrize("code", sorted(FAILURES))
def test_every_exit_code_has_its_reason(namespace: Namespace, code: ExitCode) -> None:
    namespace.pods_do(lambda _: PodLife(exit_code=int(code), message="", log=f"it was {int(code)}\n"))
    namespace.create(preference_job(run_policy={"backoffLimit": 1}))
    status = namespace.wait_phase("tune", "Failed")
    failure = status["lastFailure"]
    assert (failure["reason"], failure["exitCode"]) == (FAILURES[code], code)
    assert failure["logTail"] == f"it was {int(code)}\n"
    assert failure["node"] == "simulated"
    assert condition(status, "Failed")["reason"] == FAILURES[code]
    attempts = 2 if code in RETRYABLE_EXIT_CODES else 1
    assert status["attempt"] == attempts, "only what may succeed when tried again is tried again"
    assert namespace.status("tune")["phase"] == "Failed"


def test_the_pre_flight_refuses_before_the_trainer_starts(namespace: Namespace) -> None:
    words = last_words("DataError", message="pairs/train.jsonl line 3: no field chosen")
    namespace.pods_do(lambda _: PodLife(preflight_exit=65, preflight_message=words))
    namespace.create(preference_job())
    status = namespace.wait_phase("tune", "Failed")
    assert status["lastFailure"]["reason"] == "DataError"
    assert status["lastFailure"]["message"] == "pairs/train.jsonl line 3: no field chosen"


def test_a_failed_attempt_is_repeated_and_counts(namespace: Namespace) -> None:
    namespace.pods_do(by_attempt(PodLife(exit_code=75), PodLife(exit_code=1), PodLife()))
    namespace.create(preference_job())
    status = namespace.wait_phase("tune", "Complete")
    assert [(entry["number"], entry["reason"]) for entry in status["attempts"]] == [
        (1, "InfrastructureError"),
        (2, "UnknownExit"),
        (3, "Completed"),
    ]
    assert (status["restarts"], status["failures"]) == (2, 2)
    assert status["lastFailure"]["attempt"] == 2
    assert {"pods/tune-trainer-3-0", "configmaps/tune-snapshot"} <= namespace.children("tune")
    assert not namespace.children("tune") & {"pods/tune-trainer-1-0", "pods/tune-trainer-2-0"}


def test_backoff_is_waited_for(namespace: Namespace) -> None:
    namespace.pods_do(by_attempt(PodLife(exit_code=75), PodLife()))
    namespace.create(preference_job(run_policy={"backoff": {"initialSeconds": 3, "maxSeconds": 3}}))
    status = namespace.wait_phase("tune", "Restarting")
    assert "nextAttemptTime" in status
    assert condition(status, "PodsReady")["reason"] == "BackingOff"
    done = namespace.wait_phase("tune", "Complete")
    assert done["attempts"][1]["startTime"] >= status["nextAttemptTime"]


def test_when_one_pod_of_a_gang_fails_the_others_are_stopped(namespace: Namespace) -> None:
    def life(pod):
        first = pod["metadata"]["labels"]["plumbline.dev/rank"] == "1"
        return PodLife(exit_code=72, run_seconds=0.5) if first else PodLife(exit_code=None, stop_exit=85)

    namespace.pods_do(life)
    namespace.create(preference_job(replicas=2))
    status = namespace.wait_phase("tune", "Failed")
    assert status["lastFailure"]["pod"] == "tune-trainer-1-1"
    assert status["lastFailure"]["reason"] == "Diverged"
    eventually(lambda: "pods/tune-trainer-1-0" not in namespace.children("tune"), "deletion of the other pod")


def test_a_deleted_pod_costs_no_retry(namespace: Namespace) -> None:
    namespace.pods_do(by_attempt(PodLife(exit_code=None), PodLife()))
    namespace.create(preference_job(run_policy={"backoffLimit": 0}))
    namespace.wait_phase("tune", "Running")
    namespace.api.request("DELETE", f"/api/v1/namespaces/{namespace.name}/pods/tune-trainer-1-0")
    status = namespace.wait_phase("tune", "Complete")
    assert status["failures"] == 0
    assert status["attempts"][0]["reason"] == "PodDeleted"


def test_suspend_saves_and_resume_goes_on(namespace: Namespace) -> None:
    checkpoint = {
        "step": 7,
        "time": "2030-01-01T00:00:00Z",
        "uri": "pvc://results/tune/checkpoints/7",
        "digest": "sha256:7",
        "verified": True,
    }
    words = last_words("StoppedSaved", checkpoint=checkpoint)
    namespace.pods_do(by_attempt(PodLife(exit_code=None, stop_message=words, stop_seconds=0.5), PodLife()))
    namespace.create(preference_job())
    namespace.wait_phase("tune", "Running")
    namespace.patch("tune", {"spec": {"runPolicy": {"suspend": True}}})
    namespace.wait_phase("tune", "Suspending")
    status = namespace.wait_phase("tune", "Suspended")
    assert condition(status, "Suspended")["status"] == "True"
    assert status["attempts"][0]["reason"] == "StoppedSaved"
    assert status["attempts"][0]["exitCode"] == 85
    assert status["checkpoint"]["step"] == 7
    assert not namespace.items("pods")
    namespace.patch("tune", {"spec": {"runPolicy": {"suspend": False}}})
    status = namespace.wait_phase("tune", "Complete")
    assert (status["attempt"], status["failures"]) == (2, 0)
    assert condition(status, "Suspended")["reason"] == "Resumed"


def test_a_job_created_suspended_has_no_pods_until_it_is_resumed(namespace: Namespace) -> None:
    namespace.create(preference_job(run_policy={"suspend": True}))
    namespace.wait_phase("tune", "Suspended")
    assert namespace.children("tune") == {"configmaps/tune-snapshot"}
    namespace.patch("tune", {"spec": {"runPolicy": {"suspend": False}}})
    assert namespace.wait_phase("tune", "Complete")["attempt"] == 1


def test_the_deadline_fails_the_job_and_stops_its_pods(namespace: Namespace) -> None:
    namespace.pods_do(lambda _: PodLife(exit_code=None))
    namespace.create(preference_job(run_policy={"activeDeadlineSeconds": 2}))
    status = namespace.wait_phase("tune", "Failed")
    assert condition(status, "Failed")["reason"] == "DeadlineExceeded"
    eventually(lambda: not namespace.items("pods"), "deletion of the pods")


def test_a_finished_job_is_deleted_after_its_time_to_live(namespace: Namespace) -> None:
    namespace.create(preference_job(run_policy={"ttlSecondsAfterFinished": 1}))
    eventually(lambda: namespace.job("tune") is None, "deletion of the job")
    eventually(lambda: not namespace.children("tune"), "garbage collection", 60)


def test_deleting_a_job_deletes_its_children(namespace: Namespace) -> None:
    namespace.pods_do(lambda _: PodLife(exit_code=None))
    namespace.create(preference_job())
    namespace.wait_phase("tune", "Running")
    assert not namespace.job("tune")["metadata"].get("finalizers"), "nothing needs the operator to be deleted"
    namespace.delete("tune")
    eventually(lambda: not namespace.children("tune"), "garbage collection", 60)


def test_a_job_waits_for_its_runtime(namespace: Namespace) -> None:
    job = preference_job(runtime="later")
    job["spec"]["runtimeRef"]["kind"] = "TrainerRuntime"
    namespace.create(job)
    found = namespace.wait_condition("tune", "Accepted", "RuntimeNotFound")
    assert found["status"] == "False"
    assert found["message"] == f"spec.runtimeRef: there is no TrainerRuntime named later in namespace {namespace.name}"
    runtime = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "TrainerRuntime",
        "metadata": {"name": "later"},
        "spec": {"image": "trainer:2"},
    }
    namespace.api.create(f"{GROUP}/namespaces/{namespace.name}/trainerruntimes", runtime)
    namespace.wait_phase("tune", "Complete")


def test_an_invalid_spec_is_refused_with_its_field_and_can_be_mended(namespace: Namespace) -> None:
    # This API server knows no CEL, so a broken cross-field rule gets as far as the operator.
    namespace.create(preference_job(training={"steps": 4, "epochs": 1}))
    found = namespace.wait_condition("tune", "Accepted", "SpecInvalid")
    assert "spec.training" in found["message"]
    assert "exactly one of steps and epochs" in found["message"]
    assert not namespace.children("tune")
    namespace.patch("tune", {"spec": {"training": {"epochs": None}}})
    namespace.wait_phase("tune", "Complete")


def test_editing_a_running_job_or_its_runtime_changes_nothing(namespace: Namespace) -> None:
    namespace.pods_do(by_attempt(PodLife(exit_code=None), PodLife()))
    namespace.create(preference_job())
    before = namespace.wait_phase("tune", "Running")["snapshot"]
    namespace.patch("tune", {"spec": {"training": {"steps": 41}}})
    found = namespace.wait_condition("tune", "Accepted", "SpecChanged")
    assert found["status"] == "True"
    assert "spec.training" in found["message"]
    assert namespace.status("tune")["snapshot"] == before


def test_the_operator_writes_nothing_to_a_settled_job(namespace: Namespace, operator: OperatorProcess) -> None:
    namespace.create(preference_job())
    namespace.wait_phase("tune", "Complete")
    eventually(lambda: "services/tune-1" not in namespace.children("tune"), "removal of the Service")
    version = namespace.job("tune")["metadata"]["resourceVersion"]
    namespace.patch("tune", {"metadata": {"labels": {"touched": "yes"}}})
    touched = namespace.job("tune")["metadata"]["resourceVersion"]
    eventually(lambda: "queue_working 0" in operator.get(operator.metrics_port, "/metrics"), "rest")
    assert version != touched
    assert namespace.job("tune")["metadata"]["resourceVersion"] == touched
    assert "kopf" not in json.dumps(namespace.job("tune"))


def test_a_service_of_somebody_else_is_left_alone(namespace: Namespace) -> None:
    path = f"/api/v1/namespaces/{namespace.name}/services"
    service = {"metadata": {"name": "tune-1"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}
    namespace.api.create(path, {"apiVersion": "v1", "kind": "Service", **service})
    before = namespace.api.get(f"{path}/tune-1")
    namespace.create(preference_job())

    def waits() -> bool:
        found = condition(namespace.status("tune"), "PodsReady")
        return found is not None and "Service tune-1 must be gone first" in found["message"]

    eventually(waits, "the job's waiting for the name")
    assert namespace.api.get(f"{path}/tune-1") == before
    namespace.api.request("DELETE", f"{path}/tune-1")
    namespace.wait_phase("tune", "Complete")


def test_jobs_of_two_kinds_with_one_name_wait_for_each_other(namespace: Namespace) -> None:
    namespace.create(preference_job("twin"))
    namespace.wait_phase("twin", "Complete")
    namespace.create(rlvr_job("twin"))

    def waits() -> bool:
        found = condition(namespace.status("twin", "RLVRJob"), "PodsReady")
        return found is not None and "ConfigMap twin-snapshot" in found["message"]

    eventually(waits, "the second job's waiting for the name")
    namespace.delete("twin")
    namespace.wait_phase("twin", "Complete", "RLVRJob")


def test_a_warning_of_the_trainer_reaches_the_user_once(namespace: Namespace) -> None:
    warning = "checkpoint step-20 is damaged and was passed over"
    report = {"state": "training", "attempt": 1, "step": 25, "maxSteps": 40, "warnings": [warning]}
    namespace.pods_do(lambda _: PodLife(exit_code=None, report=report))
    namespace.create(preference_job())
    eventually(lambda: ("TrainerWarning", warning) in namespace.events("tune"), "the event")
    eventually(lambda: namespace.status("tune").get("warnings") == [warning], "the warning in the status")
    assert namespace.events("tune").count(("TrainerWarning", warning)) == 1
