"""A kubelet without containers: walks real pod objects of a real API server through scripted lives.

It registers a node, binds pods to it (it stands in for the scheduler too), reports their states as a kubelet does,
honours deletion with a grace period, answers `/v1/status` on each pod's own loopback address and serves container logs
to the API server. What a pod does is decided by a policy of the test: a function from the pod to a `PodLife`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

from cluster.control_plane import ControlPlane, free_port
from plumbline_api.contract import PORT, STATUS_PATH

NODE = "simulated"


@dataclass
class PodLife:
    """What happens to one pod."""

    unschedulable: str = ""
    """Message of the scheduler; the pod never gets a node."""
    waiting: tuple[str, str] | None = None
    """Reason and message with which the trainer container waits for ever, such as ErrImagePull."""
    mount_failure: str = ""
    """Message of a FailedMount event; the pod never starts."""
    preflight_exit: int = 0
    preflight_message: str = ""
    exit_code: int | None = 0
    """None: runs until it is deleted."""
    exit_reason: str = ""
    message: str = ""
    """Termination message."""
    run_seconds: float = 0.2
    stop_exit: int = 85
    stop_message: str = ""
    stop_seconds: float = 0.1
    report: dict[str, Any] | None = None
    """Body of `/v1/status`."""
    log: str = "the last line of the log\n"
    node: str = NODE


Policy = Callable[[Mapping[str, Any]], PodLife]


@dataclass
class _Running:
    task: asyncio.Task[None]
    deleted: asyncio.Event = field(default_factory=asyncio.Event)


class SimulatedKubelet:
    """Runs in a thread of its own until `stop`."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._policies: dict[str, Policy] = {}
        self._lives: dict[str, PodLife] = {}
        self._pods: dict[str, _Running] = {}
        self._addresses = iter(range(1, 1 << 16))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._main()], daemon=True)
        self._stopping = asyncio.Event()
        self._watching = threading.Event()
        self._port = free_port()

    def policy(self, namespace: str, policy: Policy) -> None:
        """What the pods of a namespace do from now on; without a policy they succeed."""
        self._policies[namespace] = policy

    def start(self) -> None:
        self._thread.start()
        if not self._watching.wait(30):
            raise TimeoutError("the simulated kubelet does not watch")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    # the thread

    async def _main(self) -> None:
        pki = self._plane.authority.directory
        context = ssl.create_default_context(cafile=str(self._plane.authority.certificate))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(self._plane.server, connector=connector, timeout=timeout) as session:
            self._session = session
            logs = await self._serve_logs()
            await self._register_node()
            tasks = [asyncio.create_task(self._heartbeat()), asyncio.create_task(self._watch())]
            await self._stopping.wait()
            for task in [*tasks, *(running.task for running in self._pods.values())]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await logs.cleanup()

    async def _request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> int:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        async with self._session.request(method, path, data=data, headers=headers) as response:
            await response.read()
            return response.status

    async def _register_node(self) -> None:
        await self._request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        await self._beat()

    async def _beat(self) -> None:
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            "capacity": {"cpu": "64", "memory": "256Gi", "pods": "5000"},
            "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "5000"},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "lastHeartbeatTime": _now(),
                    "lastTransitionTime": _now(),
                }
            ],
        }
        path = f"/api/v1/nodes/{NODE}/status"
        await self._request("PATCH", path, {"status": status}, "application/merge-patch+json")

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(8)
            with contextlib.suppress(aiohttp.ClientError):
                await self._beat()

    async def _watch(self) -> None:
        version = "0"
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                query = f"/api/v1/pods?watch=1&resourceVersion={version}&timeoutSeconds=300"
                async with self._session.get(query) as response:
                    self._watching.set()
                    async for line in response.content:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            version = "0"
                            break
                        version = event["object"]["metadata"]["resourceVersion"]
                        self._see(event["type"], event["object"])

    def _see(self, change: str, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        running = self._pods.get(uid)
        if running is None:
            if change == "DELETED" or pod["status"].get("phase") in ("Succeeded", "Failed"):
                if change != "DELETED" and pod["metadata"].get("deletionTimestamp"):
                    self._pods[uid] = _Running(asyncio.ensure_future(self._remove(pod)))
                return
            running = self._pods[uid] = _Running(asyncio.ensure_future(self._live(pod)))
        if change == "DELETED":
            running.task.cancel()
            self._pods.pop(uid, None)
        elif pod["metadata"].get("deletionTimestamp"):
            running.deleted.set()

    async def _live(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        policy = self._policies.get(metadata["namespace"], lambda _: PodLife())
        life = self._lives[f"{metadata['namespace']}/{metadata['name']}"] = policy(pod)
        await asyncio.sleep(0)  # so that `_see` has stored us
        deleted = self._pods[metadata["uid"]].deleted
        await self._walk(pod, life, deleted)
        await deleted.wait()
        await self._remove(pod)

    async def _walk(self, pod: dict[str, Any], life: PodLife, deleted: asyncio.Event) -> None:
        if life.unschedulable:
            condition = _condition("PodScheduled", "False", "Unschedulable", life.unschedulable)
            await self._status(pod, {"phase": "Pending", "conditions": [condition]})
            return
        await self._bind(pod, life.node)
        scheduled = {"phase": "Pending", "conditions": [_condition("PodScheduled", "True")]}
        waiting = {"waiting": {"reason": "PodInitializing"}}
        if life.mount_failure:
            await self._status(pod, {**scheduled, **_states({"waiting": {"reason": "PodInitializing"}}, waiting)})
            await self._event(pod, "FailedMount", life.mount_failure)
            return
        if life.waiting:
            reason, message = life.waiting
            await self._status(
                pod, {**scheduled, **_states(_done(0), {"waiting": {"reason": reason, "message": message}})}
            )
            return
        if life.preflight_exit:
            ended = _done(life.preflight_exit, message=life.preflight_message)
            await self._status(pod, {"phase": "Failed", **_states(ended, waiting)})
            return
        address = self._address()
        server = await self._serve_status(address, life)
        try:
            running = {"running": {"startedAt": _now()}}
            await self._status(pod, {"phase": "Running", "podIP": address, **_states(_done(0), running)})
            seconds = life.run_seconds if life.exit_code is not None else None
            stopped = await _happens(deleted, seconds)
            if stopped:
                await asyncio.sleep(life.stop_seconds)
        finally:
            if server is not None:
                await server.cleanup()
        code = life.stop_exit if stopped else life.exit_code or 0
        message = life.stop_message if stopped else life.message
        ended = _done(code, message=message, reason="" if stopped else life.exit_reason)
        phase = "Succeeded" if code == 0 else "Failed"
        await self._status(pod, {"phase": phase, "podIP": address, **_states(_done(0), ended)})

    async def _remove(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        await self._request("DELETE", path, options)

    async def _bind(self, pod: dict[str, Any], node: str) -> None:
        metadata = pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self._request(
            "POST", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding", binding
        )

    async def _status(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        body = {"metadata": {"uid": metadata["uid"]}, "status": {"startTime": _now(), "hostIP": "127.0.0.1", **status}}
        await self._request("PATCH", path, body, "application/strategic-merge-patch+json")

    async def _event(self, pod: dict[str, Any], reason: str, message: str) -> None:
        metadata = pod["metadata"]
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                **{name: metadata[name] for name in ("name", "namespace", "uid")},
            },
            "type": "Warning",
            "reason": reason,
            "message": message,
            "firstTimestamp": _now(),
            "lastTimestamp": _now(),
            "source": {"component": "kubelet"},
        }
        await self._request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", event)

    def _address(self) -> str:
        """Addresses of 127/8 are all this machine's own; the second part keeps test processes apart."""
        number = next(self._addresses)
        return f"127.{64 + os.getpid() % 128}.{number // 250}.{number % 250 + 1}"

    async def _serve_status(self, address: str, life: PodLife) -> web.AppRunner | None:
        if life.report is None:
            return None

        async def answer(_: web.Request) -> web.Response:
            return web.json_response(life.report)

        return await _serve(STATUS_PATH, answer, address, PORT, None)

    async def _serve_logs(self) -> web.AppRunner:
        certificate, key = self._plane.authority.sign("simulated-kubelet", f"/CN={NODE}", ["IP:127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)

        async def answer(request: web.Request) -> web.Response:
            life = self._lives.get(f"{request.match_info['namespace']}/{request.match_info['pod']}")
            return web.Response(text=life.log) if life else web.Response(status=404)

        path = "/containerLogs/{namespace}/{pod}/{container}"
        return await _serve(path, answer, "127.0.0.1", self._port, context)


async def _serve(path: str, answer: Any, host: str, port: int, context: ssl.SSLContext | None) -> web.AppRunner:
    application = web.Application()
    application.router.add_get(path, answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port, ssl_context=context).start()
    return runner


async def _happens(event: asyncio.Event, seconds: float | None) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _states(preflight: dict[str, Any], trainer: dict[str, Any]) -> dict[str, Any]:
    def status(name: str, state: dict[str, Any]) -> dict[str, Any]:
        common = {"name": name, "image": "image", "imageID": "image", "restartCount": 0}
        return {**common, "ready": "running" in state, "state": state}

    return {
        "initContainerStatuses": [status("preflight", preflight)],
        "containerStatuses": [status("trainer", trainer)],
    }


def _done(code: int, *, message: str = "", reason: str = "") -> dict[str, Any]:
    ended = {"exitCode": code, "startedAt": _now(), "finishedAt": _now(), "message": message}
    return {"terminated": {**ended, "reason": reason or ("Completed" if code == 0 else "Error")}}


def _condition(type_: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": _now()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
