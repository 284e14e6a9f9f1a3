"""The Kubernetes resources that the operator touches, their paths, and the labels by which it knows its children."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from plumbline_api import GROUP, VERSION
from plumbline_api.preference_job import PreferenceJob
from plumbline_api.rlvr_job import RLVRJob
from plumbline_api.runtime import ClusterTrainerRuntime, TrainerRuntime

CHILDREN_MANAGER = "plumbline-operator"
STATUS_MANAGER = "plumbline-status"
"""Field managers of server-side apply: one for each writer, so that neither takes fields from the other."""

JOB_NAME_LABEL = f"{GROUP}/job-name"
JOB_UID_LABEL = f"{GROUP}/job-uid"
KIND_LABEL = f"{GROUP}/kind"
ROLE_LABEL = f"{GROUP}/role"
ATTEMPT_LABEL = f"{GROUP}/attempt"
RANK_LABEL = f"{GROUP}/rank"
CHECKPOINT_TIME_ANNOTATION = f"{GROUP}/checkpoint-time"
CHECKPOINT_STEP_ANNOTATION = f"{GROUP}/checkpoint-step"
SNAPSHOT_HASH_ANNOTATION = f"{GROUP}/snapshot-hash"

TRAINER_ROLE = "trainer"


@dataclass(frozen=True)
class Resource:
    """One resource of the API server."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Path of the collection, of an object in it, or of a subresource of that."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{namespace}")
        parts.extend(part for part in (self.plural, name, subresource) if part)
        return "/".join(parts)


PREFERENCE_JOBS = Resource(GROUP, VERSION, "preferencejobs", "PreferenceJob")
RLVR_JOBS = Resource(GROUP, VERSION, "rlvrjobs", "RLVRJob")
TRAINER_RUNTIMES = Resource(GROUP, VERSION, "trainerruntimes", "TrainerRuntime")
CLUSTER_TRAINER_RUNTIMES = Resource(GROUP, VERSION, "clustertrainerruntimes", "ClusterTrainerRuntime", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)

JOBS: dict[str, Resource] = {resource.kind: resource for resource in (PREFERENCE_JOBS, RLVR_JOBS)}
RUNTIMES: dict[str, Resource] = {resource.kind: resource for resource in (TRAINER_RUNTIMES, CLUSTER_TRAINER_RUNTIMES)}
CHILDREN: dict[str, Resource] = {resource.kind: resource for resource in (PODS, SERVICES, CONFIG_MAPS)}

RUNTIME_MODELS: dict[str, type[TrainerRuntime] | type[ClusterTrainerRuntime]] = {
    "TrainerRuntime": TrainerRuntime,
    "ClusterTrainerRuntime": ClusterTrainerRuntime,
}
JOB_MODELS: dict[str, type[PreferenceJob] | type[RLVRJob]] = {"PreferenceJob": PreferenceJob, "RLVRJob": RLVRJob}


class JobKey(NamedTuple):
    """What the queue holds: which job to reconcile."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def resource(self) -> Resource:
        return JOBS[self.kind]
