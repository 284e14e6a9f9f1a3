"""Which nodes the next attempts avoid, and for how long (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from plumbline_api.conditions import Reason
from plumbline_api.run_policy import NodeExclusion
from plumbline_api.status import Attempt, ExcludedNode
from plumbline_operator.pods import PodView

MOST_EXCLUDED = 16

AT_ONCE = frozenset({Reason.NODE_LOST, Reason.GPU_ERROR})
"""Ends that accuse the node itself."""
WHEN_REPEATED = frozenset(
    {
        Reason.KILLED,
        Reason.UNKNOWN_EXIT,
        Reason.STALLED,
        Reason.FIRST_STEP_TIMEOUT,
        Reason.PENDING_TIMEOUT,
        Reason.INFRASTRUCTURE_ERROR,
        Reason.COLLECTIVE_TIMEOUT,
        Reason.CONTAINER_CONFIG_ERROR,
    }
)
"""Ends for which a node may be to blame: it is when two attempts in a row ended so on it."""


def suspected(attempts: Sequence[Attempt]) -> bool:
    """Whether the node on which the last of the attempts ended is to be avoided."""
    if not attempts or not attempts[-1].node:
        return False
    last = attempts[-1]
    if last.reason in AT_ONCE:
        return True
    before = attempts[-2] if len(attempts) > 1 else None
    repeated = before is not None and before.node == last.node and before.reason in WHEN_REPEATED | AT_ONCE
    return last.reason in WHEN_REPEATED and repeated


def exclude(
    excluded: Sequence[ExcludedNode], attempts: Sequence[Attempt], policy: NodeExclusion, now: datetime
) -> list[ExcludedNode]:
    """The excluded nodes after the last attempt has ended: of too many those go first that would expire first."""
    if policy.mode == "None" or not suspected(attempts):
        return list(excluded)
    last = attempts[-1]
    node = ExcludedNode(
        name=last.node, reason=last.reason, attempt=last.number, until=now + timedelta(seconds=policy.seconds)
    )
    others = sorted((entry for entry in excluded if entry.name != node.name), key=lambda entry: entry.until)
    return [*others, node][-MOST_EXCLUDED:]


def in_force(excluded: Sequence[ExcludedNode], policy: NodeExclusion, now: datetime) -> list[str]:
    """Names of the nodes that pods made now must avoid, in a fixed order."""
    return [] if policy.mode == "None" else sorted(entry.name for entry in excluded if entry.until > now)


def outdated_pods(pods: Sequence[PodView], excluded: Sequence[ExcludedNode], now: datetime) -> list[PodView]:
    """Pods that wait for a node and were made to avoid one that is free to use again: they have to be made anew, since
    what a pod asks of its node is fixed."""
    return [
        pod
        for pod in pods
        if not pod.scheduled
        and not pod.stopping
        and pod.created is not None
        and any(pod.created < entry.until <= now for entry in excluded)
    ]


def next_expiry(excluded: Sequence[ExcludedNode], now: datetime) -> float | None:
    """Seconds until the first exclusion ends."""
    return min(((entry.until - now).total_seconds() for entry in excluded if entry.until > now), default=None)


def node_affinity(names: Sequence[str], mode: str) -> dict[str, Any]:
    """The node affinity of pods that avoid these nodes. Nodes are matched by name: the hostname label may differ."""
    expressions = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in names]
    if mode == "Required":
        return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": expressions}]}}
    preference = {"weight": 100, "preference": {"matchFields": expressions}}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}
