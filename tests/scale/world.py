"""A real API server with etcd, simulated kubelets in a process of their own, and the operator as the chart runs it."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from cluster.api import ApiError
from cluster.control_plane import ControlPlane, Extra, Serving
from plumbline_api.contract import PORT, STATUS_PATH
from plumbline_crds.manifest import KINDS, custom_resource_definition
from tests.operator.chart_roles import grant_chart_roles
from tests.operator.job_documents import RUNTIME
from tests.operator.live_cluster import GROUP, eventually
from tests.operator.simulated_kubelet import PodLife, SimulatedKubelet

CONTROLLERS = "serviceaccount,serviceaccount-token,garbagecollector,namespace"
"""What a job depends on; the other controllers would only take processor time from what is measured."""
SHORT, LONG = "short-lived", "long-lived-{}"
"""Namespaces: pods in the first end after a second, those in the others run until they are deleted."""
RUN_SECONDS = 1.0


class ScaleWorld:
    """Everything but the operator."""

    def __init__(self, directory: Path, namespaces: int = 4, *, outlives_us: bool = False) -> None:
        """With `outlives_us` the control plane goes on when this process ends; another one finds it."""
        self.plane = ControlPlane(
            directory,
            serving=Serving(detached=outlives_us),
            extra=Extra(controller_manager=[f"--controllers={CONTROLLERS}"]),
            apiserver_flags=["--max-requests-inflight=800", "--max-mutating-requests-inflight=400"],
        )
        self.long_namespaces = [LONG.format(number) for number in range(namespaces)]
        self._kubelet: BaseProcess | None = None
        self._kubelet_stops: Event | None = None

    @property
    def operator_kubeconfig(self) -> str:
        return str(self.plane.authority.directory / "plumbline-operator.kubeconfig")

    def start(self) -> None:
        """Starts the control plane and prepares what jobs need."""
        self.plane.start()
        api = self.plane.api()
        for kind in KINDS:
            api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", custom_resource_definition(kind))
        eventually(self._kinds_served, "the custom resources")
        api.create(f"{GROUP}/clustertrainerruntimes", RUNTIME)
        grant_chart_roles(self.plane)
        for name in (SHORT, *self.long_namespaces):
            api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for name in (SHORT, *self.long_namespaces):
            account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
            eventually(lambda path=account: api.exists(path), f"the service account of {name}")

    def find(self) -> None:
        """Uses the control plane that another process has started in the same directory."""
        found = re.search(r"server: (\S+)", Path(self.plane.kubeconfig).read_text())
        assert found, "no control plane was started in this directory"
        self.plane.server = found.group(1)

    def start_kubelet(self, *, bind_pods: bool = True) -> None:
        """Starts the simulated kubelets; without `bind_pods` they only answer for trainers that run already."""
        context = multiprocessing.get_context("spawn")
        serving, self._kubelet_stops = context.Event(), context.Event()
        arguments = (str(self.plane.directory), self.plane.server, bind_pods, serving, self._kubelet_stops)
        self._kubelet = context.Process(target=_kubelet, args=arguments, daemon=True)
        self._kubelet.start()
        assert serving.wait(60), "the simulated kubelets do not serve"

    def stop_kubelet(self) -> None:
        if self._kubelet is not None and self._kubelet_stops is not None:
            self._kubelet_stops.set()
            self._kubelet.join(20)
            if self._kubelet.is_alive():
                self._kubelet.kill()
            self._kubelet = None

    def stop(self) -> None:
        self.stop_kubelet()
        self.plane.stop()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Requests as the administrator."""
        pki = self.plane.authority.directory
        context = ssl.create_default_context(cafile=str(self.plane.authority.certificate))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        connector = aiohttp.TCPConnector(ssl=context, limit=64)
        async with aiohttp.ClientSession(
            self.plane.server, connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=10)
        ) as session:
            yield session

    def _kinds_served(self) -> bool:
        try:
            return len([r for r in self.plane.api().get(GROUP)["resources"] if "/" not in r["name"]]) == len(KINDS)
        except ApiError:
            return False


async def send(session: aiohttp.ClientSession, method: str, path: str, body: Any, kind: str = "json") -> dict[str, Any]:
    """One request; raises on refusal. `kind` is json, merge-patch+json or strategic-merge-patch+json."""
    headers = {"Content-Type": f"application/{kind}"}
    async with session.request(method, path, data=json.dumps(body), headers=headers) as response:
        text = await response.text()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:500]}")
        document: dict[str, Any] = json.loads(text)
        return document


def _kubelet(directory: str, server: str, bind_pods: bool, serving: Event, stops: Event) -> None:
    """The process of the simulated kubelets."""
    plane = ControlPlane(directory)
    plane.server = server
    kubelet = SimulatedKubelet(plane) if bind_pods else None
    if kubelet is not None:
        for number in range(64):
            kubelet.policy(LONG.format(number), lambda _: PodLife(exit_code=None))
        kubelet.policy(SHORT, lambda _: PodLife(run_seconds=RUN_SECONDS))
        kubelet.start()
    asyncio.run(_answer_for_trainers(serving, stops))
    if kubelet is not None:
        kubelet.stop()


async def _answer_for_trainers(serving: Event, stops: Event) -> None:
    """`/v1/status` of every pod: their addresses are all this machine's own, so one listener answers for all."""
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response(report(step=asked))

    application = web.Application()
    application.router.add_get(STATUS_PATH, answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", PORT, backlog=1024).start()
    serving.set()
    while not stops.is_set():
        await asyncio.sleep(0.2)
    await runner.cleanup()


def report(step: int) -> dict[str, Any]:
    """A status report as long as a trainer's."""
    return {
        "state": "training",
        "step": step,
        "maxSteps": 10**9,
        "etaSeconds": 3600.0,
        "tokensPerSecond": 12345.6,
        "stepSeconds": 1.25,
        "metrics": [{"name": f"metric/{number}", "value": step + number / 7} for number in range(16)],
    }
