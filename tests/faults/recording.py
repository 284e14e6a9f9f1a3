"""Objects of the cluster as they were when a fault was told, trimmed, for the tests of the operator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        last = scene.status(fault.name).get("lastFailure", {})
        document = {
            "reason": fault.reason,
            "tells": fault.tells,
            "pods": [_pod(pod) for pod in pods],
            "events": [
                {key: event.get(key) for key in ("type", "reason", "message")}
                | {"pod": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
                for pod in pods
                for event in scene.timeline.events_of(pod["metadata"]["name"])
            ],
            "nodes": nodes,
            "log": {last["pod"]: last.get("logTail", "")} if last.get("pod") else {},
        }
        (folder / f"{fault.name}.json").write_text(json.dumps(document, indent=1) + "\n")


def _pod(pod: dict[str, Any]) -> dict[str, Any]:
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    kept = {"name": metadata["name"], "uid": metadata["uid"], "labels": {}}
    kept["labels"] = {name: value for name, value in metadata["labels"].items() if name in KEPT_LABELS}
    for name in ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
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
