"""What disturbances act on: the cluster's parts, and one job in it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.bare import BareCluster
from scripts.deployment import SYSTEM_NAMESPACE, Cluster, CommandFailed, wait_until
from tests.chaos.faulty_proxy import FaultyProxy
from tests.chaos.limited_volume import LimitedVolume
from tests.e2e.containers import processes_of

T = TypeVar("T")
Manifest = dict[str, Any]

TERMINAL = ("Complete", "Failed")


class JobEnded(Exception):
    """The job is terminal, so there is nothing left to disturb."""


@dataclass
class World:
    """One job in a cluster of plain processes, its volume and the way to the API server."""

    cluster: Cluster
    bare: BareCluster
    namespace: str
    resource: str
    """Such as `rlvrjob/chaos`."""

    volume: LimitedVolume
    proxy: FaultyProxy

    @property
    def name(self) -> str:
        """The job's name."""
        return self.resource.split("/")[1]

    def persistently(self, call: Callable[[], T]) -> T:
        """The result of a request as soon as the API server takes it."""
        answers: list[T] = []

        def answered() -> bool:
            try:
                answers.append(call())
            except (CommandFailed, subprocess.TimeoutExpired, json.JSONDecodeError):
                return False
            return True

        wait_until("the API server to answer", answered, 180)
        return answers[0]

    def job(self) -> Manifest:
        """The job as it is stored."""
        return self.persistently(lambda: self.cluster.get(self.resource, "-n", self.namespace))

    def status(self) -> Manifest:
        """The job's status."""
        status: Manifest = self.job().get("status", {})
        return status

    def pods(self) -> list[Manifest]:
        """All pods of the job."""
        selector = f"plumbline.dev/job-name={self.name}"
        found = self.persistently(lambda: self.cluster.get("pods", "-n", self.namespace, "-l", selector))
        items: list[Manifest] = found["items"]
        return items

    def operators(self) -> list[Manifest]:
        """The operator's pods that run."""
        found = self.persistently(lambda: self.cluster.get("pods", "-n", SYSTEM_NAMESPACE))
        return [pod for pod in found["items"] if pod["status"].get("phase") == "Running"]

    def running_trainer(self, seconds: float = 240) -> Manifest:
        """A pod whose trainer has processes, as soon as there is one. Raises `JobEnded`."""

        def found() -> Manifest | None:
            for pod in self.pods():
                if not pod["metadata"].get("deletionTimestamp") and processes_of(pod, "trainer"):
                    return pod
            if self.status().get("phase") in TERMINAL:
                raise JobEnded(self.status()["phase"])
            return None

        pod: Manifest = wait_until(f"a trainer of {self.resource} to run", found, seconds)
        return pod

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints on the volume, oldest first."""
        return sorted((self.volume.directory / "results" / self.name / "checkpoints").glob("step-*"))

    def newest_step(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        return max((int(path.name.removeprefix("step-")) for path in self.checkpoints()), default=0)

    def wait_for_progress(self, steps: int, seconds: float = 300) -> None:
        """Returns when a checkpoint at least `steps` further on is there. Raises `JobEnded`."""
        start = self.newest_step()

        def further() -> bool:
            if self.newest_step() >= start + steps:
                return True
            if self.status().get("phase") in TERMINAL:
                raise JobEnded(self.status()["phase"])
            return False

        wait_until(f"{self.resource} to get {steps} steps beyond {start}", further, seconds)
