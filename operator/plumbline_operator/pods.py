"""What a pod object says, read once into plain data. Everything that decides works on these views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from plumbline_operator.resources import ATTEMPT_LABEL, RANK_LABEL, ROLE_LABEL

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
    deletion_time: datetime | None = None
    """When the pod is to be gone: the request to delete plus the grace period."""
    scheduled: bool = True
    unschedulable_message: str = ""
    disruption: str = ""
    """Reason of the condition DisruptionTarget (Kubernetes 1.26 and later)."""
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
    disruption = conditions.get("DisruptionTarget", {})
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
        image=next((container.get("image", "") for container in spec.get("containers") or []), ""),
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        deletion_time=parse_time(metadata.get("deletionTimestamp")),
        scheduled=bool(spec.get("nodeName")),
        unschedulable_message=(scheduled.get("message") or "" if scheduled.get("status") == "False" else ""),
        disruption=disruption.get("reason") or "" if disruption.get("status") == "True" else "",
        containers=tuple(_read_container(state) for state in states),
    )


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
