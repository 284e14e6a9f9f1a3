"""`Observed` goes into `decide`, `Decision` comes out: plain data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from plumbline_api.contract import StatusReport
from plumbline_api.status import JobStatus
from plumbline_operator.pods import PodView
from plumbline_operator.resources import Resource

Manifest = dict[str, Any]
NOTHING = Decimal(0)


@dataclass(frozen=True)
class Refusal:
    """The API server refused to create a child."""

    child: str
    code: int
    message: str


@dataclass(frozen=True)
class PodEvent:
    """A Kubernetes event about a pod, such as FailedMount or Preempted."""

    pod: str
    pod_uid: str
    reason: str
    message: str


@dataclass(frozen=True)
class NodeCapacity:
    """A node that takes pods."""

    name: str
    allocatable: Mapping[str, Decimal]
    used: Mapping[str, Decimal] | None = None
    """What the pods on it ask for; None where the operator may not know."""

    def free(self, resource: str) -> Decimal:
        """What is left of a resource; all of it where nobody knows what is used."""
        used = self.used.get(resource, NOTHING) if self.used is not None else NOTHING
        return max(NOTHING, self.allocatable.get(resource, NOTHING) - used)


@dataclass(frozen=True)
class ServiceView:
    """The rendezvous Service of an attempt."""

    name: str
    uid: str
    attempt: int
    cluster_ip: str


@dataclass(frozen=True)
class Observed:
    """The world as one reconciliation sees it."""

    job: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    """Resource versions of the job and its children, by uid; no decision depends on them."""
    snapshot: Mapping[str, Any] | None = None
    """The job's own snapshot ConfigMap."""
    runtime: Mapping[str, Any] | None = None
    """The runtime that the spec names; read only while there is no snapshot."""
    pods: tuple[PodView, ...] = ()
    departed: tuple[PodView, ...] = ()
    """Last states of pods that are gone, as far as the watch delivered them."""
    services: tuple[ServiceView, ...] = ()
    foreign: tuple[str, ...] = ()
    """Objects that stand where a child would go: of somebody else, of another job, of an earlier one of this name."""
    warnings: tuple[PodEvent, ...] = ()
    """Warning events about pods that have not started; read only while there are such pods."""
    endings: tuple[PodEvent, ...] = ()
    """Events about pods that are being deleted: before Kubernetes 1.26 nothing else tells why."""
    refusals: tuple[Refusal, ...] = ()
    """Children that the API server refused in this same reconciliation."""
    report: StatusReport | None = None
    """The last status report of rank 0."""
    silent_seconds: float = 0.0
    """How long rank 0 has left every question unanswered; 0 while it answers."""
    capacity: tuple[NodeCapacity, ...] = ()
    """The nodes that take pods; read only while a pod fits on none."""
    log_tails: Mapping[str, str] = field(default_factory=dict)
    """Last lines of the failed container, by pod."""
    nodes: Mapping[str, bool] = field(default_factory=dict)
    """Whether the node is ready, for the nodes of pods that went away; a node that is gone is not ready."""


@dataclass(frozen=True)
class Apply:
    """Server-side apply of a child."""

    resource: Resource
    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Delete exactly this child; `grace_seconds` 0 gives up on a pod whose node does not answer."""

    resource: Resource
    name: str
    uid: str
    grace_seconds: int | None = None


@dataclass(frozen=True)
class Annotate:
    """Write annotations of exactly this child."""

    resource: Resource
    name: str
    uid: str
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class SuspendJob:
    """Set `spec.runPolicy.suspend`, as its user would: the one thing that is ever written to a spec."""


@dataclass(frozen=True)
class WriteStatus:
    """Server-side apply of the job's status; what is not `urgent` may wait and be merged with the next."""

    status: JobStatus
    urgent: bool


@dataclass(frozen=True)
class PostEvent:
    """A Kubernetes event about the job. The same `occasion` gives the same event, however often it is posted."""

    type: str
    reason: str
    message: str
    occasion: str


@dataclass(frozen=True)
class DeleteJob:
    """Delete the job itself (time to live is over)."""

    uid: str


Step = Apply | Annotate | Delete | SuspendJob | WriteStatus | PostEvent | DeleteJob


@dataclass(frozen=True)
class Decision:
    """What to do, in this order. The operator may die after any step: the next reconciliation then decides anew."""

    steps: tuple[Step, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to look again even if nothing happens."""
    again: bool = False
    """Whether the steps change what the next decision sees, so that it should follow at once."""
