"""No step is lost: suspension, deleted pods and a killed operator change nothing about the result."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.deployment import SYSTEM_NAMESPACE, wait_until
from tests.e2e.containers import kill_container

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CHANGES = (
    "spec.training.epochs=null",
    "spec.training.steps=120",
    "spec.training.batchSize=96",
    "spec.checkpoint.everySteps=10",
)
"""Long enough that a status write, which comes every 15 s, tells of a step in the middle."""


def reached_step(jobs: Any, resource: str, step: int) -> None:
    wait_until(
        f"{resource} at step {step}",
        lambda: jobs.status(resource).get("progress", {}).get("step", 0) >= step,
        seconds=240,
    )


@pytest.fixture(scope="module")
def undisturbed(jobs: Any, example: Any) -> dict[str, str]:
    """Digests of the weights that the job ends with when nothing interferes."""
    resource = jobs.create(example("dpo", *CHANGES, rename="undisturbed"))
    jobs.wait_for_phase(resource, "Complete", seconds=600)
    weights = jobs.weights(resource)
    assert weights
    return weights


def test_suspend_saves_a_checkpoint_and_resume_ends_with_the_same_model(
    jobs: Any, example: Any, undisturbed: dict[str, str]
) -> None:
    resource = jobs.create(example("dpo", *CHANGES, rename="suspended"))
    reached_step(jobs, resource, 2)
    suspend = '{"spec":{"runPolicy":{"suspend":%s}}}'
    jobs.cluster.kubectl("patch", resource, "-n", jobs.namespace, "--type=merge", "-p", suspend % "true")
    status = jobs.wait_for_phase(resource, "Suspended", seconds=180)
    wait_until("the pods to be gone", lambda: not jobs.pods(resource), seconds=30)
    assert status["checkpoint"]["step"] >= 2, "the checkpoint holds every finished step"

    jobs.cluster.kubectl("patch", resource, "-n", jobs.namespace, "--type=merge", "-p", suspend % "false")
    status = jobs.wait_for_phase(resource, "Complete", seconds=600)
    assert jobs.weights(resource) == undisturbed
    assert status["failures"] == 0


def test_a_deleted_pod_is_replaced_and_the_model_is_the_same(
    jobs: Any, example: Any, undisturbed: dict[str, str]
) -> None:
    resource = jobs.create(example("dpo", *CHANGES, rename="evicted"))
    reached_step(jobs, resource, 3)
    jobs.cluster.kubectl("delete", "pod", "-n", jobs.namespace, "-l", "plumbline.dev/job-name=evicted", "--wait=false")
    status = jobs.wait_for_phase(resource, "Complete", seconds=600)
    assert jobs.weights(resource) == undisturbed
    assert status["restarts"] == 1
    assert status["failures"] == 0, "a pod that somebody deletes is not the job's failure"


def test_a_killed_trainer_process_counts_as_a_failure_and_the_model_is_the_same(
    jobs: Any, example: Any, undisturbed: dict[str, str]
) -> None:
    job = example("dpo", *CHANGES, "spec.runPolicy.backoff.initialSeconds=1", rename="killed")
    resource = jobs.create(job)
    wait_until("a checkpoint", lambda: jobs.status(resource).get("checkpoint"), seconds=240)
    assert kill_container(jobs.pods(resource)[0], "trainer")
    status = jobs.wait_for_phase(resource, "Complete", seconds=600)
    assert jobs.weights(resource) == undisturbed
    assert (status["failures"], status["lastFailure"]["reason"]) == (1, "Killed")


def test_a_killed_operator_leaves_running_jobs_alone(jobs: Any, example: Any, undisturbed: dict[str, str]) -> None:
    resource = jobs.create(example("dpo", *CHANGES, rename="orphan"))
    reached_step(jobs, resource, 2)
    before = {pod["metadata"]["uid"] for pod in jobs.pods(resource)}
    jobs.cluster.kubectl("delete", "pod", "-n", SYSTEM_NAMESPACE, "--all", "--grace-period=0", "--force")
    status = jobs.wait_for_phase(resource, "Complete", seconds=600)
    assert {pod["metadata"]["uid"] for pod in jobs.pods(resource)} <= before
    assert jobs.weights(resource) == undisturbed
    assert status["restarts"] == 0
