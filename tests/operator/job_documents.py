"""Jobs and runtimes as users write them."""

from __future__ import annotations

import copy
from typing import Any

RUNTIME = {
    "apiVersion": "plumbline.dev/v1alpha1",
    "kind": "ClusterTrainerRuntime",
    "metadata": {"name": "torch-cpu"},
    "spec": {"image": "registry.example/trainer:1", "resources": {"cpu": "2", "memory": "4Gi"}},
}


def preference_job(
    name: str = "tune",
    namespace: str = "team",
    *,
    run_policy: dict[str, Any] | None = None,
    replicas: int = 1,
    runtime: str = "torch-cpu",
    **spec: Any,
) -> dict[str, Any]:
    """A valid PreferenceJob; keyword arguments replace blocks of its spec."""
    return {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "PreferenceJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "runtimeRef": {"name": runtime},
            "model": {"source": {"volume": {"claimName": "models", "path": "tiny"}}},
            "data": {"train": {"source": {"volume": {"claimName": "data", "path": "pairs/train.jsonl"}}}},
            "objective": {"dpo": {"beta": 0.1}},
            "training": {"steps": 40, "batchSize": 8},
            "output": {"volume": {"claimName": "results"}},
            "resources": {"replicas": replicas},
            "runPolicy": {"backoff": {"initialSeconds": 0, "maxSeconds": 0}, **(run_policy or {})},
            **spec,
        },
    }


def rlvr_job(name: str = "reason", namespace: str = "team", **spec: Any) -> dict[str, Any]:
    """A valid RLVRJob with a Python verifier from a ConfigMap."""
    job = preference_job(name, namespace)
    job["kind"] = "RLVRJob"
    job["spec"] |= {
        "objective": {"grpo": {}},
        "rollout": {"groupSize": 4},
        "rewards": [
            {"name": "right", "verifier": {"numeric": {}}},
            {"name": "own_code", "verifier": {"python": {"configMap": "rewards", "file": "score.py"}}},
        ],
        **spec,
    }
    return job


def stored(job: dict[str, Any], uid: str = "uid-1") -> dict[str, Any]:
    """The job as the API server returns it."""
    job = copy.deepcopy(job)
    job["metadata"] |= {"uid": uid, "generation": 1, "resourceVersion": "1"}
    return job
