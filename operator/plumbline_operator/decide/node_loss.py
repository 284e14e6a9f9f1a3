"""Nodes that stop answering while pods run on them (pure).

The node controller marks the pods of a node that is not ready, which the watch delivers like every change of a pod; the
node itself is then read to be sure. Kubernetes would delete the pods 300 s later and then wait for a kubelet that does
not answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from plumbline_api.conditions import Reason
from plumbline_operator.decide.diagnosis import Finding, Rank
from plumbline_operator.pods import PodView


def on_lost_node(pod: PodView, nodes: Mapping[str, bool], timeout: int, now: datetime) -> bool:
    """Whether the pod may still run on a node that has not been ready for `timeout` seconds."""
    left = _left(pod, nodes, timeout, now)
    return left is not None and left <= 0


def node_loss(
    pods: Sequence[PodView], nodes: Mapping[str, bool], timeout: int, now: datetime
) -> tuple[Finding | None, float | None]:
    """The end of an attempt that lost a node; otherwise the seconds until a node that does not answer is given up."""
    waits = []
    for pod in pods:
        left = _left(pod, nodes, timeout, now)
        if left is None:
            continue
        if left <= 0:
            message = f"node {pod.node} of pod {pod.name} has not been ready for {timeout} s"
            return Finding(Reason.NODE_LOST, message, Rank.TAKEN_AWAY, pod=pod, time=pod.not_ready_since), None
        waits.append(left)
    return None, min(waits, default=None)


def _left(pod: PodView, nodes: Mapping[str, bool], timeout: int, now: datetime) -> float | None:
    # A pod that has not run is never marked as not ready; once its deletion is asked for, that is what a kubelet that
    # does not answer keeps waiting.
    since = pod.deletion_requested if pod.phase == "Pending" else pod.not_ready_since
    if pod.finished or since is None or nodes.get(pod.node) is not False:
        return None
    return (since + timedelta(seconds=timeout) - now).total_seconds()
