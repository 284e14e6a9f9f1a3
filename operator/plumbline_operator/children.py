"""The manifests of a job's children (pure). Names are deterministic: writing a child twice writes one child."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plumbline_api.contract import ATTEMPT_VARIABLE, PORT, RENDEZVOUS_PORT
from plumbline_api.scheduling import Scheduling
from plumbline_operator.kueue import admission_gates, group_annotations, group_labels
from plumbline_operator.model import Manifest
from plumbline_operator.pods import TRAINER_CONTAINER
from plumbline_operator.resources import (
    ATTEMPT_LABEL,
    JOB_NAME_LABEL,
    JOB_UID_LABEL,
    JOBS,
    KIND_LABEL,
    RANK_LABEL,
    ROLE_LABEL,
    TRAINER_ROLE,
)
from plumbline_operator.snapshot import Snapshot, snapshot_name

_NODE_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


@dataclass(frozen=True)
class Placement:
    """What is decided about the pods of an attempt when they are made, and not once in the snapshot."""

    scheduling: Scheduling = field(default_factory=Scheduling)
    node_lost_seconds: int = 30
    """How long a pod stays on a node that does not answer; Kubernetes would wait 300 s before the job may go on."""
    grace_seconds: int | None = None
    """Time between SIGTERM and SIGKILL; None leaves the template's."""
    node_affinity: Manifest | None = None


def pod_name(job_name: str, attempt: int, rank: int) -> str:
    return f"{job_name}-{TRAINER_ROLE}-{attempt}-{rank}"


def service_name(job_name: str, attempt: int) -> str:
    return f"{job_name}-{attempt}"


def owner_reference(job: Mapping[str, Any]) -> Manifest:
    """Makes the job own a child: garbage collection deletes it after the job."""
    return {
        "apiVersion": JOBS[job["kind"]].api_version,
        "kind": job["kind"],
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def snapshot_manifest(job: Mapping[str, Any], data: dict[str, str], annotations: dict[str, str]) -> Manifest:
    """The immutable ConfigMap with the resolved spec and runtime."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **_metadata(job, snapshot_name(job["metadata"]["name"]), _labels(job)),
            "annotations": annotations,
        },
        "immutable": True,
        "data": data,
    }


def service_manifest(job: Mapping[str, Any], attempt: int) -> Manifest:
    """The address of rank 0 in one attempt: a cluster IP, so that nobody waits for DNS."""
    labels = {**_labels(job), ATTEMPT_LABEL: str(attempt)}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, service_name(job["metadata"]["name"], attempt), labels),
        "spec": {
            "type": "ClusterIP",
            # Ranks meet before any of them is ready to be called ready.
            "publishNotReadyAddresses": True,
            "selector": {JOB_UID_LABEL: job["metadata"]["uid"], ATTEMPT_LABEL: str(attempt), RANK_LABEL: "0"},
            "ports": [
                {"name": "rendezvous", "port": RENDEZVOUS_PORT, "targetPort": RENDEZVOUS_PORT, "protocol": "TCP"},
                {"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"},
            ],
        },
    }


def pod_manifest(
    job: Mapping[str, Any], snapshot: Snapshot, placement: Placement, attempt: int, rank: int, master_address: str
) -> Manifest:
    """One rank of one attempt: the snapshot's template, the job's present scheduling, torchrun's variables."""
    scheduling = placement.scheduling
    template = copy.deepcopy(snapshot.pod_template)
    spec = template["spec"]
    labels = {
        **template["metadata"]["labels"],
        **group_labels(job, scheduling, attempt),
        **_labels(job),
        ROLE_LABEL: TRAINER_ROLE,
        ATTEMPT_LABEL: str(attempt),
        RANK_LABEL: str(rank),
    }
    metadata = _metadata(job, pod_name(job["metadata"]["name"], attempt, rank), labels)
    if annotations := {**template["metadata"]["annotations"], **group_annotations(scheduling, snapshot.replicas)}:
        metadata["annotations"] = annotations

    variables = [
        {"name": "RANK", "value": str(rank)},
        {"name": "WORLD_SIZE", "value": str(snapshot.replicas)},
        {"name": "LOCAL_RANK", "value": "0"},
        _master_address(rank, master_address),
        {"name": "MASTER_PORT", "value": str(RENDEZVOUS_PORT)},
        {"name": ATTEMPT_VARIABLE, "value": str(attempt)},
    ]
    for container in [*spec["initContainers"], *spec["containers"]]:
        container["env"] = [*variables, *container["env"]]

    _place(spec, placement)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _place(spec: Manifest, placement: Placement) -> None:
    scheduling = placement.scheduling
    if scheduling.node_selector:
        spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **scheduling.node_selector}
    if scheduling.tolerations:
        spec["tolerations"] = [*(entry.to_document() for entry in scheduling.tolerations), *spec["tolerations"]]
    tolerated = {toleration.get("key") for toleration in spec["tolerations"]}
    spec["tolerations"] += [
        {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": placement.node_lost_seconds}
        for taint in _NODE_TAINTS
        if taint not in tolerated
    ]
    if scheduling.priority_class_name:
        spec["priorityClassName"] = scheduling.priority_class_name
    if gates := admission_gates(scheduling):
        spec["schedulingGates"] = gates
    if placement.grace_seconds is not None:
        spec["terminationGracePeriodSeconds"] = placement.grace_seconds
    if placement.node_affinity is not None:
        spec["affinity"] = {"nodeAffinity": placement.node_affinity}


def _master_address(rank: int, service_address: str) -> Manifest:
    # Rank 0 listens there itself; a pod that calls its own Service needs hairpin mode, which not every network has.
    if rank == 0:
        return {"name": "MASTER_ADDR", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}
    return {"name": "MASTER_ADDR", "value": service_address}


def _labels(job: Mapping[str, Any]) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "plumbline",
        "app.kubernetes.io/component": TRAINER_CONTAINER,
        "app.kubernetes.io/managed-by": "plumbline-operator",
        JOB_NAME_LABEL: job["metadata"]["name"],
        JOB_UID_LABEL: job["metadata"]["uid"],
        KIND_LABEL: job["kind"],
    }


def _metadata(job: Mapping[str, Any], name: str, labels: dict[str, str]) -> Manifest:
    return {
        "name": name,
        "namespace": job["metadata"]["namespace"],
        "labels": labels,
        "ownerReferences": [owner_reference(job)],
    }
