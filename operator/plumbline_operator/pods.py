"""What a pod object says, read once into plain data. Everything that decides works on these views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from plumbline_operator.resources import ATTEMPT_LABEL, CHECKPOINT_TIME_ANNOTATION, RANK_LABEL, ROLE_LABEL

PREFLIGHT_CONTAINER = "preflight"
TRAINER_CONTAINER = "trainer"


@dataclass(frozen=True)
class ContainerView:
    """State of one container: waiting, running or terminated."""

    name: str
    waiting_reason: str = ""
    waiting_message: str = ""
    running: bool = False
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    started: datetime | None = None
    finished: datetime | None = None

    @property
    def terminated(self) -> bool:
        return self.exit_code is not None


@dataclass(frozen=True)
class PodView:
    """State of one pod of a job."""

    name: str
    uid: str
    attempt: int
    rank: int
    role: str = "trainer"
    phase: str = "Pending"
    node: str = ""
    ip: str = ""
    image: str = ""
    reason: str = ""
    message: str = ""
    created: datetime | None = None
    bound: datetime | None = None
    """When it got its node."""
    not_ready_since: datetime | None = None
    """Since when its containers, or its node, do not answer although it runs."""
    gates: tuple[str, ...] = ()
    """What holds it back from the scheduler."""
    checkpoint_time: datetime | None = None
    """The checkpoint that its annotation tells of."""
    deletion_time: datetime | None = None
    """When the pod is to be gone: the request to delete plus the grace period."""
    deletion_requested: datetime | None = None
    """When somebody asked for its deletion."""
    scheduled: bool = True
    unschedulable_message: str = ""
    disruption: str = ""
    """Reason of the condition DisruptionTarget (Kubernetes 1.26 and later)."""
    disruption_message: str = ""
    requests: Mapping[str, str] = field(default_factory=dict)
    """What the trainer container asks for, which is also its limit: resource -> quantity."""
    containers: tuple[ContainerView, ...] = ()
    """Init container first."""

    @property
    def finished(self) -> bool:
        """Whether no container of it will ever run again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def stopping(self) -> bool:
        return self.deletion_time is not None

    @property
    def failed_container(self) -> ContainerView | None:
        """The container that ended badly; the one that ended first, if several did."""
        bad = [container for container in self.containers if container.exit_code not in (None, 0)]
        return min(bad, key=lambda container: container.finished or datetime.max.replace(tzinfo=UTC), default=None)

    @property
    def trainer(self) -> ContainerView | None:
        return next((container for container in self.containers if container.name == TRAINER_CONTAINER), None)


def read_pod(document: Mapping[str, Any]) -> PodView:
    """Reads a pod that carries the operator's labels; raises KeyError or ValueError if it does not."""
    metadata, spec, status = document["metadata"], document.get("spec", {}), document.get("status", {})
    labels = metadata["labels"]
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled", {})
    ready = conditions.get("Ready", {})
    # Kueue tells of its evictions by a condition of its own.
    disruption = conditions.get("DisruptionTarget") or conditions.get("TerminationTarget", {})
    if disruption.get("status") != "True":
        disruption = {}
    deletion_time = parse_time(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    containers = spec.get("containers") or [{}]
    states = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return PodView(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        attempt=int(labels[ATTEMPT_LABEL]),
        rank=int(labels[RANK_LABEL]),
        role=labels.get(ROLE_LABEL, ""),
        phase=status.get("phase", "Pending"),
        node=spec.get("nodeName") or "",
        ip=status.get("podIP") or "",
        image=containers[0].get("image", ""),
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        created=parse_time(metadata.get("creationTimestamp")),
        bound=_since(scheduled, "True") if spec.get("nodeName") else None,
        not_ready_since=_since(ready, "False") if status.get("phase") == "Running" else None,
        gates=tuple(gate["name"] for gate in spec.get("schedulingGates") or []),
        checkpoint_time=_annotated_time(metadata),
        deletion_time=deletion_time,
        deletion_requested=deletion_time - grace if deletion_time else None,
        scheduled=bool(spec.get("nodeName")),
        unschedulable_message=(scheduled.get("message") or "" if scheduled.get("status") == "False" else ""),
        disruption=disruption.get("reason") or "",
        disruption_message=disruption.get("message") or "",
        requests=(containers[0].get("resources") or {}).get("requests") or {},
        containers=tuple(_read_container(state) for state in states),
    )


def _since(condition: Mapping[str, Any], status: str) -> datetime | None:
    """Since when a condition has this status; None if it has another."""
    return parse_time(condition.get("lastTransitionTime")) if condition.get("status") == status else None


def _annotated_time(metadata: Mapping[str, Any]) -> datetime | None:
    """None as well for what is no time: whoever may edit pods may have written it."""
    try:
        time = parse_time((metadata.get("annotations") or {}).get(CHECKPOINT_TIME_ANNOTATION))
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None


def _read_container(status: Mapping[str, Any]) -> ContainerView:
    state = status.get("state") or {}
    waiting, terminated = state.get("waiting") or {}, state.get("terminated")
    if terminated:
        return ContainerView(
            name=status["name"],
            exit_code=int(terminated.get("exitCode", 0)),
            signal=terminated.get("signal"),
            reason=terminated.get("reason") or "",
            message=terminated.get("message") or "",
            started=parse_time(terminated.get("startedAt")),
            finished=parse_time(terminated.get("finishedAt")),
        )
    return ContainerView(
        name=status["name"],
        waiting_reason=waiting.get("reason") or "",
        waiting_message=waiting.get("message") or "",
        running="running" in state,
        started=parse_time((state.get("running") or {}).get("startedAt")),
    )


def parse_time(text: str | None) -> datetime | None:
    """A Kubernetes timestamp (RFC 3339, UTC); None for none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
