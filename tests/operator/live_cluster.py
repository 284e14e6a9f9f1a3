"""A real API server with a simulated kubelet, and the operator as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cluster.api import ApiError
from cluster.control_plane import ControlPlane, free_port
from plumbline_crds.manifest import KINDS, custom_resource_definition
from tests.operator.chart_roles import grant_chart_roles
from tests.operator.job_documents import RUNTIME
from tests.operator.simulated_kubelet import Policy, SimulatedKubelet

ROOT = Path(__file__).resolve().parents[2]
GROUP = "/apis/plumbline.dev/v1alpha1"
PLURALS = {"PreferenceJob": "preferencejobs", "RLVRJob": "rlvrjobs"}

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

Found = TypeVar("Found")


def eventually(find: Callable[[], Found | None], what: str, timeout: float = 30) -> Found:
    """Waits until `find` returns something that is true."""
    deadline = time.monotonic() + timeout
    while True:
        found = find()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(0.05)


class LiveCluster:
    """The API server as the tests use it."""

    def __init__(self, directory: Path, definitions: Sequence[dict[str, Any]] | None = None) -> None:
        """`definitions` of the custom resources; by default those of the models as they are."""
        self.plane = ControlPlane(directory)
        self._definitions = definitions or [custom_resource_definition(kind) for kind in KINDS]
        self.kubelet: SimulatedKubelet

    def start(self) -> None:
        self.plane.start()
        self.api = self.plane.api()
        for definition in self._definitions:
            self.api.create(DEFINITIONS, definition)
        eventually(self._kinds_served, "the custom resources")
        self.api.create(f"{GROUP}/clustertrainerruntimes", RUNTIME)
        self.operator_kubeconfig = grant_chart_roles(self.plane)
        self.kubelet = SimulatedKubelet(self.plane)
        self.kubelet.start()

    def stop(self) -> None:
        self.kubelet.stop()
        self.plane.stop()

    def _kinds_served(self) -> bool:
        try:
            return len([r for r in self.api.get(GROUP)["resources"] if "/" not in r["name"]]) == 4
        except ApiError:
            return False

    def create_namespace(self, name: str) -> None:
        self.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def wait_for_service_account(self, namespace: str) -> None:
        """Without it the API server refuses every pod."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        eventually(lambda: self.api.exists(path), f"the service account of {namespace}")


class Namespace:
    """One namespace of the cluster, for one test."""

    def __init__(self, cluster: LiveCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.api = cluster.api

    def pods_do(self, policy: Policy) -> None:
        self.cluster.kubelet.policy(self.name, policy)

    def create(self, job: dict[str, Any]) -> None:
        job["metadata"]["namespace"] = self.name
        assert self.api.create(self._jobs(job["kind"]), job)

    def patch(self, name: str, change: dict[str, Any], kind: str = "PreferenceJob") -> None:
        self.api.patch(f"{self._jobs(kind)}/{name}", change)

    def delete(self, name: str, kind: str = "PreferenceJob") -> None:
        self.api.request("DELETE", f"{self._jobs(kind)}/{name}")

    def job(self, name: str, kind: str = "PreferenceJob") -> dict[str, Any] | None:
        try:
            return self.api.get(f"{self._jobs(kind)}/{name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def status(self, name: str, kind: str = "PreferenceJob") -> dict[str, Any]:
        job = self.job(name, kind)
        return (job or {}).get("status") or {}

    def items(self, plural: str) -> list[dict[str, Any]]:
        return self.api.get(f"/api/v1/namespaces/{self.name}/{plural}")["items"]

    def children(self, job: str) -> set[str]:
        """Kind and name of everything that belongs to a job."""
        found = set()
        for plural in ("pods", "services", "configmaps"):
            for item in self.items(plural):
                if (item["metadata"].get("labels") or {}).get("plumbline.dev/job-name") == job:
                    found.add(f"{plural}/{item['metadata']['name']}")
        return found

    def events(self, job: str) -> list[tuple[str, str]]:
        """Reason and message of the events about a job."""
        found = [event for event in self.items("events") if event["involvedObject"]["name"] == job]
        return [
            (event["reason"], event.get("message", "")) for event in found if event["involvedObject"]["kind"] != "Pod"
        ]

    def wait_phase(self, name: str, phase: str, kind: str = "PreferenceJob", timeout: float = 30) -> dict[str, Any]:
        """The status once the job is in a phase."""

        def reached() -> dict[str, Any] | None:
            status = self.status(name, kind)
            return status if status.get("phase") == phase else None

        try:
            return eventually(reached, f"phase {phase} of {name}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; the status is {self.status(name, kind)}") from None

    def wait_condition(
        self, name: str, type_: str, reason: str, kind: str = "PreferenceJob", timeout: float = 30
    ) -> dict[str, Any]:
        """The condition once it has a reason."""

        def reached() -> dict[str, Any] | None:
            found = condition(self.status(name, kind), type_)
            return found if found and found["reason"] == reason else None

        try:
            return eventually(reached, f"{type_} with reason {reason} on {name}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; the status is {self.status(name, kind)}") from None

    def _jobs(self, kind: str) -> str:
        return f"{GROUP}/namespaces/{self.name}/{PLURALS[kind]}"


def condition(status: dict[str, Any], type_: str) -> dict[str, Any] | None:
    return next((found for found in status.get("conditions", []) if found["type"] == type_), None)


class OperatorProcess:
    """`python -m plumbline_operator`, started and stopped by the test."""

    def __init__(self, kubeconfig: str, log: Path, *flags: str, source: Path = ROOT) -> None:
        """`source` is the tree whose operator runs."""
        self.metrics_port, self.health_port = free_port(), free_port()
        self._log = log
        self._source = source
        ports = ["--metrics-port", str(self.metrics_port), "--health-port", str(self.health_port)]
        self._command = [sys.executable, "-m", "plumbline_operator", "--kubeconfig", kubeconfig, *ports, *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment["PYTHONPATH"] = f"{self._source / 'crds'}:{self._source / 'operator'}"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=environment, stderr=log, stdout=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more when this returns."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(20)

    def wait(self, timeout: float) -> int:
        """Exit code, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(timeout)

    def get(self, port: int, path: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return response.read().decode()

    def ready(self) -> bool:
        try:
            return self.get(self.health_port, "/readyz") == "ok\n"
        except OSError:
            return False

    def log(self) -> str:
        return self._log.read_text()
