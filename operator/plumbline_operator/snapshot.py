"""The snapshot: spec and runtime resolved once into what every attempt of the job runs (pure).

It is kept in an immutable ConfigMap that the job owns, with three keys: `config.json` (the trainer's configuration),
`pod.json` (the pod template without what differs between attempts and ranks) and `run.json` (what the operator itself
needs to know: replicas, GPUs, prices, the spec as it was accepted). Editing or deleting a runtime therefore never
changes a running job.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from plumbline_api.contract import CONFIG_PATH, PORT, TrainerConfig
from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_api.runtime import TrainerRuntimeSpec
from plumbline_operator.model import Manifest
from plumbline_operator.pods import PREFLIGHT_CONTAINER, TRAINER_CONTAINER
from plumbline_operator.resources import SNAPSHOT_HASH_ANNOTATION
from plumbline_operator.volumes import Mounts, resolve_paths

Spec = PreferenceJobSpec | RLVRJobSpec

CONFIG_KEY, POD_KEY, RUN_KEY = "config.json", "pod.json", "run.json"

RUN_AS = 65532
"""User and group of the containers: the conventional `nonroot` of distroless images."""

GRACE_PERIOD_SECONDS = 120
"""Between SIGTERM and SIGKILL, where neither the spec nor a measured time to save says otherwise."""


@dataclass(frozen=True)
class Snapshot:
    """What is stored. Its large parts are parsed when they are asked for: for most looks at a job they are not."""

    name: str
    hash: str
    config_text: str
    pod_text: str
    spec_document: Mapping[str, Any]
    replicas: int
    gpus: int
    objective: str
    gpu_hour_price: float | None
    pod_hour_price: float | None
    currency: str = ""

    @functools.cached_property
    def config(self) -> TrainerConfig:
        """The trainer's configuration."""
        return TrainerConfig.model_validate_json(self.config_text)

    @functools.cached_property
    def accepted_spec(self) -> Spec:
        """The spec as it was when the job was accepted."""
        return type(self.config.spec).model_validate(self.spec_document)

    @functools.cached_property
    def pod_template(self) -> Manifest:
        """Every pod without what differs between attempts and ranks. Do not change it."""
        template: Manifest = json.loads(self.pod_text)
        return template

    @property
    def total_gpus(self) -> int:
        return self.replicas * self.gpus


def snapshot_name(job_name: str) -> str:
    return f"{job_name}-snapshot"


def build_snapshot_data(
    kind: str, name: str, namespace: str, uid: str, spec: Spec, runtime: TrainerRuntimeSpec
) -> tuple[dict[str, str], dict[str, str]]:
    """Data and annotations of the snapshot ConfigMap of a valid, accepted spec."""
    resources = spec.resources
    resolved = spec.model_copy(
        update={
            "resources": resources.model_copy(
                update={
                    "gpus": resources.gpus if resources.gpus is not None else runtime.resources.gpus,
                    "cpu": resources.cpu or runtime.resources.cpu,
                    "memory": resources.memory or runtime.resources.memory,
                    "shared_memory": resources.shared_memory or runtime.resources.shared_memory,
                }
            )
        }
    )
    mounts = Mounts()
    paths = resolve_paths(spec, name, mounts)
    field = "preference" if kind == "PreferenceJob" else "rlvr"
    config = TrainerConfig.model_validate(
        {"kind": kind, "name": name, "namespace": namespace, "uid": uid, "paths": paths, field: resolved}
    )
    run = {
        "replicas": resolved.resources.replicas,
        "gpus": resolved.resources.gpus,
        "objective": spec.objective.key,
        "spec": spec.to_document(),
        "prices": runtime.prices.to_document() if runtime.prices else None,
    }
    data = {
        CONFIG_KEY: _json(config.to_document()),
        POD_KEY: _json(_pod_template(name, resolved, runtime, mounts)),
        RUN_KEY: _json(run),
    }
    return data, {SNAPSHOT_HASH_ANNOTATION: _digest(data)}


def read_snapshot(config_map: Mapping[str, Any]) -> Snapshot:
    """Parses a stored snapshot; raises KeyError or ValueError if it is not one. Do not change what it returns."""
    data, metadata = config_map["data"], config_map["metadata"]
    digest = metadata["annotations"][SNAPSHOT_HASH_ANNOTATION]
    return _parse(metadata["name"], digest, data[CONFIG_KEY], data[POD_KEY], data[RUN_KEY])


@functools.lru_cache(maxsize=256)
def _parse(name: str, digest: str, config_text: str, pod_text: str, run_text: str) -> Snapshot:
    """Kept for the jobs that were looked at last: a snapshot never changes, and a running job is looked at often."""
    run = json.loads(run_text)
    prices = run["prices"]
    return Snapshot(
        name=name,
        hash=digest,
        config_text=config_text,
        pod_text=pod_text,
        spec_document=run["spec"],
        replicas=run["replicas"],
        gpus=run["gpus"],
        objective=run["objective"],
        gpu_hour_price=prices["gpuHour"] if prices else None,
        pod_hour_price=prices["podHour"] if prices else None,
        currency=(prices or {}).get("currency") or "",
    )


def _pod_template(job_name: str, spec: Spec, runtime: TrainerRuntimeSpec, mounts: Mounts) -> Manifest:
    own_mounts = [
        {"name": "config", "mountPath": CONFIG_PATH.rsplit("/", 1)[0], "readOnly": True},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    volumes = [
        {
            "name": "config",
            "configMap": {"name": snapshot_name(job_name), "items": [{"key": CONFIG_KEY, "path": CONFIG_KEY}]},
        },
        {"name": "scratch", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": spec.resources.shared_memory}},
        *mounts.volumes,
    ]
    compute = {"cpu": spec.resources.cpu, "memory": spec.resources.memory}
    accelerators = {runtime.resources.gpu_resource_name: str(spec.resources.gpus)} if spec.resources.gpus else {}
    container: Manifest = {
        "image": runtime.image,
        "imagePullPolicy": runtime.image_pull_policy,
        "command": ["python", "-m", "plumbline_trainer"],
        "env": _environment(spec, runtime),
        "volumeMounts": [*own_mounts, *mounts.mounts],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        },
    }
    preflight = {
        **container,
        "name": PREFLIGHT_CONTAINER,
        "args": ["--config", CONFIG_PATH, "--preflight"],
        "resources": {"requests": compute, "limits": compute},
    }
    trainer = {
        **container,
        "name": TRAINER_CONTAINER,
        "args": ["--config", CONFIG_PATH],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        # Requests equal limits: the quality-of-service class Guaranteed is evicted last.
        "resources": {"requests": {**compute, **accelerators}, "limits": {**compute, **accelerators}},
    }
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.run_policy.termination_grace_period_seconds or GRACE_PERIOD_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": RUN_AS,
            "runAsGroup": RUN_AS,
            "fsGroup": RUN_AS,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [toleration.to_document() for toleration in runtime.tolerations],
        "initContainers": [preflight],
        "containers": [trainer],
        "volumes": volumes,
    }
    if runtime.node_selector:
        pod["nodeSelector"] = dict(runtime.node_selector)
    if runtime.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in runtime.image_pull_secrets]
    if runtime.runtime_class_name:
        pod["runtimeClassName"] = runtime.runtime_class_name
    metadata = {"labels": dict(runtime.pod_labels), "annotations": dict(runtime.pod_annotations)}
    return {"metadata": metadata, "spec": pod}


def _environment(spec: Spec, runtime: TrainerRuntimeSpec) -> list[Manifest]:
    """The runtime's variables come last but one of theirs replaces ours: the platform has the last word."""
    ours = {
        # The root file system is read-only; libraries write caches below the home directory.
        "HOME": "/tmp",
        "OMP_NUM_THREADS": str(whole_cpus(spec.resources.cpu or runtime.resources.cpu)),
        "PYTHONUNBUFFERED": "1",
    }
    theirs = {variable.name for variable in runtime.env}
    variables: list[Manifest] = [{"name": name, "value": value} for name, value in ours.items() if name not in theirs]
    for variable in runtime.env:
        if variable.secret_key_ref:
            reference = variable.secret_key_ref.to_document()
            variables.append({"name": variable.name, "valueFrom": {"secretKeyRef": reference}})
        else:
            variables.append({"name": variable.name, "value": variable.value})
    return variables


def whole_cpus(quantity: str) -> int:
    """A CPU quantity as a number of threads: rounded up, at least 1. `500m` is 1, `2500m` is 3."""
    value = Decimal(quantity[:-1]) / 1000 if quantity.endswith("m") else Decimal(quantity.rstrip("k"))
    if quantity.endswith("k"):
        value *= 1000
    return max(1, math.ceil(value))


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, sort_keys=True)


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
