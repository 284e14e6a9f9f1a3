"""What the API server tells over time: the newest state of jobs, pods and events of a namespace, and when it came."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

from scripts.deployment import Cluster

Manifest = dict[str, Any]

WATCHED = ("preferencejobs.plumbline.dev", "rlvrjobs.plumbline.dev", "pods", "events")
CHUNK = 65536


class Timeline:
    """Watches one namespace from `start` to `stop`. Its methods may be called from any thread."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._lock = threading.Lock()
        self._jobs: dict[str, Manifest] = {}
        self._pods: dict[str, Manifest] = {}
        self._events: dict[str, Manifest] = {}
        self._failed_at: dict[tuple[str, int], float] = {}
        self._condition_at: dict[tuple[str, str, str], float] = {}
        self._ended_at: dict[str, float] = {}
        self._processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        for resource in WATCHED:
            command = [
                self._cluster.kubectl_path, "--kubeconfig", self._cluster.kubeconfig, "get", resource,
                "-n", self._namespace, "--watch", "-o", "json",
            ]  # fmt: skip
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self._processes.append(process)
            threading.Thread(target=self._follow, args=(process,), daemon=True).start()

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait()

    def job(self, name: str) -> Manifest:
        """The newest state of a job; empty before it was seen."""
        with self._lock:
            return self._jobs.get(name, {})

    def pods(self, job: str) -> list[Manifest]:
        """The last states of all pods that a job ever had, oldest attempt first, then by rank."""
        with self._lock:
            found = [pod for pod in self._pods.values() if _label(pod, "job-name") == job]
        return sorted(found, key=lambda pod: (int(_label(pod, "attempt")), int(_label(pod, "rank"))))

    def events_of(self, name: str) -> list[Manifest]:
        """The events about an object."""
        with self._lock:
            return [event for event in self._events.values() if event["involvedObject"]["name"] == name]

    def failure_seen(self, job: str, attempt: int) -> float | None:
        """When `status.lastFailure` of this attempt was first seen, in seconds since the epoch."""
        with self._lock:
            return self._failed_at.get((job, attempt))

    def condition_seen(self, job: str, condition: str, reason: str) -> float | None:
        """When a condition of a job first had a reason."""
        with self._lock:
            return self._condition_at.get((job, condition, reason))

    def end_seen(self, pod: str) -> float | None:
        """When a pod was first seen to have failed or to be deleted."""
        with self._lock:
            return self._ended_at.get(pod)

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for document in _documents(process.stdout):
            with self._lock:
                self._take(document, time.time())

    def _take(self, document: Manifest, now: float) -> None:
        name = document["metadata"]["name"]
        match document["kind"]:
            case "Pod":
                self._pods[document["metadata"]["uid"]] = document
                if document["status"].get("phase") == "Failed" or document["metadata"].get("deletionTimestamp"):
                    self._ended_at.setdefault(name, now)
            case "Event":
                self._events[document["metadata"]["uid"]] = document
            case _:
                self._jobs[name] = document
                status = document.get("status") or {}
                if "lastFailure" in status:
                    self._failed_at.setdefault((name, status["lastFailure"]["attempt"]), now)
                for condition in status.get("conditions") or []:
                    self._condition_at.setdefault((name, condition["type"], condition["reason"]), now)


def _documents(stream: Any) -> Iterator[Manifest]:
    """JSON objects that follow each other without a separator."""
    decoder, text = json.JSONDecoder(), ""
    for line in stream:
        text += line
        if line.rstrip() != "}" or line.startswith(" "):
            continue
        document, end = decoder.raw_decode(text.lstrip())
        text = text.lstrip()[end:]
        yield document


def _label(pod: Manifest, name: str) -> str:
    return (pod["metadata"].get("labels") or {}).get(f"plumbline.dev/{name}", "0")
