"""Watches the pods of a job from outside and remembers what must never be seen."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass
from typing import Any

from scripts.deployment import Cluster

_ATTEMPT = "plumbline.dev/attempt"
_RANK = "plumbline.dev/rank"


@dataclass(frozen=True)
class Sighting:
    """A pod as the last event about it showed it."""

    name: str
    attempt: int
    rank: int
    created: str
    live: bool
    """Whether it may still run."""


class PodObserver:
    """Follows the watch of a job's pods until it is stopped; a broken watch is opened again."""

    def __init__(self, cluster: Cluster, namespace: str, job: str, replicas: int = 1) -> None:
        self._command = [
            cluster.kubectl_path, "--kubeconfig", cluster.kubeconfig, "get", "pods", "-n", namespace,
            "-l", f"plumbline.dev/job-name={job}", "--watch", "--output-watch-events", "-o", "json",
        ]  # fmt: skip
        self._replicas = replicas
        self.pods: dict[str, Sighting] = {}
        """Every pod that was ever seen, by uid."""

        self.violations: list[str] = []
        self._stopping = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> PodObserver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(10)

    def see(self, kind: str, pod: dict[str, Any]) -> None:
        """Takes one event of the watch into account."""
        metadata, phase = pod["metadata"], pod.get("status", {}).get("phase", "")
        labels = metadata["labels"]
        self.pods[metadata["uid"]] = Sighting(
            name=metadata["name"],
            attempt=int(labels[_ATTEMPT]),
            rank=int(labels[_RANK]),
            created=metadata["creationTimestamp"],
            live=kind != "DELETED" and phase not in ("Succeeded", "Failed"),
        )
        live = [sighting for sighting in self.pods.values() if sighting.live]
        if len(live) > self._replicas:
            self._report(f"{len(live)} pods may run at once: {sorted(sighting.name for sighting in live)}")
        if len({sighting.attempt for sighting in live}) > 1:
            self._report(f"pods of two attempts may run at once: {sorted(sighting.name for sighting in live)}")
        newest = max(sighting.attempt for sighting in self.pods.values())
        attempt = self.pods[metadata["uid"]].attempt
        if kind == "ADDED" and attempt < newest and self.pods[metadata["uid"]].live:
            self._report(f"{metadata['name']} of attempt {attempt} was created after attempt {newest} had begun")

    @property
    def attempts(self) -> int:
        """The highest attempt of which a pod was seen."""
        return max((sighting.attempt for sighting in self.pods.values()), default=0)

    def _report(self, violation: str) -> None:
        if violation not in self.violations:
            self.violations.append(violation)

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            assert self._process.stdout is not None
            for event in documents(self._process.stdout):
                self.see(event["type"], event["object"])
            self._process.wait()
            self._gone_meanwhile()
            self._stopping.wait(0.2)

    def _gone_meanwhile(self) -> None:
        """The next list shows every pod that is still there; what it does not show ended unseen."""
        for uid, sighting in self.pods.items():
            self.pods[uid] = Sighting(sighting.name, sighting.attempt, sighting.rank, sighting.created, live=False)


def documents(stream: Any) -> Any:
    """The JSON documents of a stream, as they are complete; kubectl prints each on one line or over many."""
    decoder, text = json.JSONDecoder(), ""
    for line in stream:
        text += line
        if not line.rstrip().endswith("}"):
            continue
        try:
            document, _ = decoder.raw_decode(text)
        except ValueError:
            continue
        yield document
        text = ""
