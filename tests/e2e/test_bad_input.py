"""What a user reads when the job cannot run: one reason, and a message that names the field, file and line."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_missing_runtime_is_named_and_the_job_starts_when_it_appears(jobs: Any, example: Any) -> None:
    resource = jobs.create(example("dpo", "spec.runtimeRef.name=absent", rename="no-runtime"))
    condition = jobs.wait_for_condition(resource, "Accepted", "False", "RuntimeNotFound", seconds=20)
    assert "spec.runtimeRef" in condition["message"] and "absent" in condition["message"]


def test_a_missing_dataset_file_fails_in_preflight_naming_the_file(jobs: Any, example: Any) -> None:
    job = example("dpo", "spec.data.train.source={volume: {claimName: plumbline-demo, path: data/none.jsonl}}",
                  rename="no-data")  # fmt: skip
    status = jobs.wait_for_phase(jobs.create(job), "Failed", seconds=120)
    assert status["lastFailure"]["reason"] == "DataError"
    assert "none.jsonl" in status["lastFailure"]["message"]
    assert status["lastFailure"]["exitCode"] == 65


def test_bad_rows_are_named_by_file_and_line(jobs: Any, example: Any) -> None:
    rows = [{"prompt": "1 + 1 =", "chosen": "2", "rejected": "3"}, {"prompt": "1 + 2 =", "rejected": "4"}]
    data = {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}
    jobs.cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rows"}, "data": data}, namespace=jobs.namespace
    )
    job = example("dpo", "spec.data.train.source={configMap: {name: rows, key: rows.jsonl}}", rename="bad-row")
    status = jobs.wait_for_phase(jobs.create(job), "Failed", seconds=120)
    assert status["lastFailure"]["reason"] == "DataError"
    assert "rows.jsonl:2" in status["lastFailure"]["message"] and "chosen" in status["lastFailure"]["message"]


def test_a_directory_that_is_no_model_is_refused(jobs: Any, example: Any) -> None:
    job = example("dpo", "spec.model.source={volume: {claimName: plumbline-demo, path: data}}", rename="no-model")
    status = jobs.wait_for_phase(jobs.create(job), "Failed", seconds=120)
    assert status["lastFailure"]["reason"] == "ModelError"


@pytest.mark.parametrize(
    ("name", "code", "said", "reason"),
    [
        (
            "raises",
            "def verify(prompt, completion, answer, row):\n    raise KeyError('no such thing')\n",
            "no such thing",
            "RewardFunctionError",
        ),
        (
            "nan",
            "def verify(prompt, completion, answer, row):\n    return float('nan')\n",
            "nan",
            "RewardFunctionError",
        ),
        (
            "hangs",
            "def verify(prompt, completion, answer, row):\n    while True: pass\n",
            "did not return within 1 s",
            "RewardFunctionTimeout",
        ),
    ],
)
def test_a_reward_function_that_fails_is_explained(
    jobs: Any, example: Any, name: str, code: str, said: str, reason: str
) -> None:
    jobs.cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"reward-{name}"}, "data": {"reward.py": code}},
        namespace=jobs.namespace,
    )
    reward = f"[{{name: mine, timeoutSeconds: 1, verifier: {{python: {{configMap: reward-{name}}}}}}}]"
    status = jobs.wait_for_phase(
        jobs.create(example("grpo", f"spec.rewards={reward}", rename=f"reward-{name}")), "Failed", seconds=120
    )
    assert status["lastFailure"]["reason"] == reason
    assert said in status["lastFailure"]["message"].lower()


def test_an_image_that_does_not_exist_is_a_condition_and_not_a_silence(jobs: Any, example: Any) -> None:
    runtime = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "TrainerRuntime",
        "metadata": {"name": "wrong-image"},
        "spec": {"image": "localhost:5000/plumbline/absent:1"},
    }
    jobs.cluster.apply(runtime, namespace=jobs.namespace)
    job = example("dpo", "spec.runtimeRef={kind: TrainerRuntime, name: wrong-image}", rename="no-image")
    condition = jobs.wait_for_condition(jobs.create(job), "PodsReady", "False", "ImagePullFailed", seconds=60)
    assert "absent" in condition["message"]


def test_a_job_that_fits_on_no_node_says_which_resource_is_short(jobs: Any, example: Any) -> None:
    resource = jobs.create(example("dpo", "spec.resources.gpus=3", rename="too-big"))
    condition = jobs.wait_for_condition(resource, "PodsReady", "False", "Unschedulable", seconds=60)
    assert "nvidia.com/gpu" in condition["message"]


def test_a_missing_claim_is_named(jobs: Any, example: Any) -> None:
    job = example("dpo", "spec.model.source={volume: {claimName: nowhere}}", rename="no-claim")
    condition = jobs.wait_for_condition(jobs.create(job), "PodsReady", "False", "VolumeFailed", seconds=60)
    assert "nowhere" in condition["message"]


def test_too_little_memory_is_host_out_of_memory(jobs: Any, example: Any) -> None:
    job = example("dpo", "spec.resources.memory=200Mi", "spec.runPolicy.backoffLimit=0", rename="small")
    status = jobs.wait_for_phase(jobs.create(job), "Failed", seconds=120)
    assert status["lastFailure"]["reason"] == "HostOutOfMemory"
