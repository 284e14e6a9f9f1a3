"""Why pods do not start, in plain words (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from plumbline_api.conditions import Reason
from plumbline_operator.decide.shortage import shortage
from plumbline_operator.model import NodeCapacity, PodEvent, Refusal
from plumbline_operator.pods import PREFLIGHT_CONTAINER, ContainerView, PodView

Explanation = tuple[Reason, str]

REFUSAL_REASONS = frozenset({Reason.QUOTA_EXCEEDED, Reason.POD_REFUSED})
"""What `explain_refusal` gives: the API server did not take a child."""

_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "RegistryUnavailable",
        "ImageInspectError",
    }
)
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_MOUNT_WARNINGS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedBinding"})
_INSUFFICIENT = re.compile(r"[Ii]nsufficient ([\w/-]+(?:\.[\w/-]+)*)")
_MISSING_KEY = re.compile(
    r"(configmap|secret)s? .*(not found|forbidden)|non-existent (config|secret) key", re.IGNORECASE
)


def explain(
    pods: Iterable[PodView],
    warnings: Iterable[PodEvent],
    refusals: Iterable[Refusal],
    replicas: int,
    nodes: Sequence[NodeCapacity] = (),
) -> Explanation:
    """The most telling reason why the attempt's pods do not all run yet. `nodes` are those that take pods, where they
    were asked for because a pod fits on none."""
    pods, warnings = list(pods), list(warnings)
    for refusal in refusals:
        return explain_refusal(refusal)
    found = [explanation for pod in pods if (explanation := explain_pod(pod, warnings, nodes)) is not None]
    if found:
        return found[0]
    running = sum(pod.phase != "Pending" for pod in pods)
    checking = [pod.name for pod in pods if _preflight_runs(pod)]
    doing = f"; pre-flight checks run in {', '.join(checking[:3])}" if checking else ""
    return Reason.WAITING_FOR_PODS, f"{running} of {replicas} pods run{doing}"


def explain_refusal(refusal: Refusal) -> Explanation:
    """Why the API server did not take a child."""
    if refusal.code == 403 and "exceeded quota" in refusal.message:
        return Reason.QUOTA_EXCEEDED, f"a ResourceQuota of the namespace refuses {refusal.child}: {refusal.message}"
    return Reason.POD_REFUSED, f"the API server refuses {refusal.child}: {refusal.message}"


def explain_pod(pod: PodView, warnings: Iterable[PodEvent], nodes: Sequence[NodeCapacity] = ()) -> Explanation | None:
    """What keeps one pod from starting; None if nothing is known to be wrong."""
    if pod.phase != "Pending":
        return None
    if not pod.scheduled:
        return _explain_scheduling(pod, nodes)
    for container in pod.containers:
        explanation = _explain_waiting(pod, container)
        if explanation is not None:
            return explanation
    if any(container.running or container.terminated for container in pod.containers):
        return None  # its volumes are mounted; older warnings are history
    for warning in warnings:
        if warning.pod_uid == pod.uid and warning.reason in _MOUNT_WARNINGS:
            return _explain_mount(pod, warning.message)
    return None


def _explain_scheduling(pod: PodView, nodes: Sequence[NodeCapacity]) -> Explanation | None:
    message = pod.unschedulable_message
    if not message:
        return None
    lower = message.lower()
    if "persistentvolumeclaim" in lower or "volume node affinity" in lower:
        return Reason.VOLUME_FAILED, f"pod {pod.name} waits for its volume: {message}"
    short = sorted(set(_INSUFFICIENT.findall(message)))
    if short:
        amounts = shortage(pod.requests, nodes)
        what = f"no node has enough {' and '.join(short)} free for pod {pod.name}"
        return Reason.UNSCHEDULABLE, f"{what}: {amounts} ({message})" if amounts else f"{what}: {message}"
    return Reason.UNSCHEDULABLE, f"no node fits pod {pod.name}: {message}"


def _explain_waiting(pod: PodView, container: ContainerView) -> Explanation | None:
    if container.waiting_reason in _IMAGE:
        return Reason.IMAGE_PULL_FAILED, f"image {pod.image} of pod {pod.name} cannot be pulled: {_said(container)}"
    if container.waiting_reason in _CONFIG:
        if "subpath" in container.waiting_message.lower():
            return Reason.VOLUME_FAILED, f"a volume of pod {pod.name} cannot be mounted: {_said(container)}"
        return (
            Reason.CONTAINER_CONFIG_ERROR,
            f"container {container.name} of pod {pod.name} cannot start: {_said(container)}",
        )
    return None


def _said(container: ContainerView) -> str:
    return container.waiting_message or container.waiting_reason


def _explain_mount(pod: PodView, message: str) -> Explanation:
    if _MISSING_KEY.search(message):
        return Reason.CONTAINER_CONFIG_ERROR, f"pod {pod.name} needs what is not there: {message}"
    return Reason.VOLUME_FAILED, f"a volume of pod {pod.name} cannot be mounted: {message}"


def _preflight_runs(pod: PodView) -> bool:
    return any(container.name == PREFLIGHT_CONTAINER and container.running for container in pod.containers)
