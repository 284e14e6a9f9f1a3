"""Objects of the cluster as they were when a fault was told, trimmed, for the tests of the operator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from plumbline_operator.observe import CLOCKS_DIFFER
from plumbline_operator.pods import parse_time, read_pod
from tests.faults.cases import Fault
from tests.faults.scene import Scene

KEPT_LABELS = ("plumbline.dev/job-name", "plumbline.dev/attempt", "plumbline.dev/rank", "plumbline.dev/role")
KEPT_STATUS = ("phase", "reason", "message", "conditions", "initContainerStatuses", "containerStatuses", "podIP")


def record(scene: Scene, faults: Sequence[Fault], folder: Path) -> None:
    """One file a fault: the pods of the first attempt, the events about them, their nodes, and what was told."""
    folder.mkdir(exist_ok=True)
    nodes = {node["metadata"]["name"]: _node(node) for node in scene.cluster.get("nodes")["items"]}
    for fault in faults:
        pods = [
            pod for pod in scene.pods_then.get(fault.name, [])
            if pod["metadata"]["labels"]["plumbline.dev/attempt"] == "1"
        ]  # fmt: skip
        if not pods:
            continue
        status = scene.status(fault.name)
        last = status.get("lastFailure", {})
        first = next((one for one in status.get("attempts", []) if one["number"] == 1), {})
        ended = parse_time(first.get("endTime"))
        document = {
            "reason": fault.reason,
            "tells": fault.tells,
            "pods": [_pod(pod, pods, ended) for pod in pods],
            "events": [
                {key: event.get(key) for key in ("type", "reason", "message")}
                | {"pod": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
                for pod in pods
                for event in scene.timeline.events_of(pod["metadata"]["name"])
                if _is_of_the_fault(event, ended)
            ],
            "nodes": nodes,
            "log": {last["pod"]: last.get("logTail", "")} if last.get("pod") else {},
        }
        (folder / f"{fault.name}.json").write_text(json.dumps(document, indent=1) + "\n")


def _pod(pod: dict[str, Any], gang: Sequence[dict[str, Any]], ended: datetime | None) -> dict[str, Any]:
    """Without its deletion where the operator deleted it after another one of its gang had failed."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    kept = {"name": metadata["name"], "uid": metadata["uid"], "labels": {}}
    kept["labels"] = {name: value for name, value in metadata["labels"].items() if name in KEPT_LABELS}
    deletion: tuple[str, ...] = ("deletionTimestamp", "deletionGracePeriodSeconds")
    deleted = read_pod(pod).deletion_requested
    if deleted and ended and deleted >= ended and any(read_pod(one).failed_container for one in gang if one is not pod):
        deletion = ()
    for name in ("creationTimestamp", *deletion):
        if name in metadata:
            kept[name] = metadata[name]
    containers = [
        {"name": container["name"], "image": "trainer", "resources": container.get("resources", {})}
        for container in spec["containers"]
    ]
    return {
        "metadata": kept,
        "spec": {"nodeName": spec.get("nodeName", ""), "containers": containers},
        "status": {name: _trimmed(status[name]) for name in KEPT_STATUS if name in status},
    }


def _is_of_the_fault(event: dict[str, Any], ended: datetime | None) -> bool:
    """Whether an event was there when the attempt `ended`, and does not tell of what another fault did to the node."""
    told = parse_time(event.get("lastTimestamp") or event.get("eventTime"))
    return told is None or ended is None or told <= ended + CLOCKS_DIFFER


def _node(node: dict[str, Any]) -> dict[str, Any]:
    conditions = [entry for entry in node["status"]["conditions"] if entry["type"] == "Ready"]
    allocatable = {name: node["status"]["allocatable"][name] for name in ("cpu", "memory")}
    return {
        "metadata": {"name": node["metadata"]["name"]},
        "status": {"conditions": _trimmed(conditions), "allocatable": allocatable},
    }


def _trimmed(value: Any) -> Any:
    """Without what differs between two recordings and says nothing: ids of containers and images, heartbeats."""
    noise = ("containerID", "imageID", "image", "lastProbeTime", "lastHeartbeatTime", "lastState")
    if isinstance(value, dict):
        return {name: _trimmed(part) for name, part in value.items() if name not in noise}
    if isinstance(value, list):
        return [_trimmed(part) for part in value]
    return value
