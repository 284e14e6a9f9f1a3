"""Several pods train one model: they find each other through the attempt's Service, and end and restart together."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.deployment import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CHANGES = (
    "spec.training.epochs=null",
    "spec.training.steps=60",
    "spec.training.batchSize=96",
    "spec.checkpoint.everySteps=10",
    "spec.resources={replicas: 2, cpu: 700m, memory: 1Gi}",
)


def test_two_pods_train_one_model_and_survive_the_loss_of_one(jobs: Any, example: Any) -> None:
    resource = jobs.create(example("dpo", *CHANGES, rename="gang"))
    wait_until("a checkpoint", lambda: jobs.status(resource).get("checkpoint"), seconds=240)
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in jobs.pods(resource)}
    assert sorted(pods) == ["gang-trainer-1-0", "gang-trainer-1-1"]

    jobs.cluster.kubectl("delete", "pod", "gang-trainer-1-1", "-n", jobs.namespace, "--wait=false")
    status = jobs.wait_for_phase(resource, "Complete", seconds=600)
    assert status["progress"]["text"] == "60/60"
    assert status["attempts"][0]["reason"] == "PodDeleted"
    assert status["attempts"][1]["fromStep"] >= 10, "the second attempt goes on from a checkpoint"
    assert (status["restarts"], status["failures"]) == (1, 0)
    accuracy = next(metric for metric in status["metrics"] if metric["name"] == "evaluation/rewards/accuracy")
    assert accuracy["value"] >= 0.9
