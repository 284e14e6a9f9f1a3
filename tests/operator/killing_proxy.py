"""Stands between the operator and the API server and kills the operator around each of its writes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web

from cluster.control_plane import ControlPlane

_VOLATILE = re.compile(r'"[^"]*Z"|"resourceVersion": "[^"]*"|: [0-9.]+')
WRITES = ("POST", "PATCH", "PUT", "DELETE")


class KillingProxy:
    """Plain HTTP in front of the API server.

    Every distinct write of the operator is cut off twice: the first time the operator dies before the write is
    forwarded, the second time after it was carried out and before the answer arrives. The third time it passes.
    """

    def __init__(self, plane: ControlPlane, port: int, kill: Callable[[], None]) -> None:
        self._plane = plane
        self._port = port
        self._kill = kill
        self.writes: dict[str, int] = {}
        """How often each distinct write was tried."""
        self.kills = 0
        self.died = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._main()], daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._serving.wait(10):
            raise TimeoutError("the proxy does not serve")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def kubeconfig(self) -> str:
        return f"""\
apiVersion: v1
kind: Config
clusters: [{{name: proxy, cluster: {{server: "http://127.0.0.1:{self._port}"}}}}]
users: [{{name: nobody, user: {{}}}}]
contexts: [{{name: proxy, context: {{cluster: proxy, user: nobody}}}}]
current-context: proxy
"""

    async def _main(self) -> None:
        pki = self._plane.authority.directory
        context = ssl.create_default_context(cafile=str(self._plane.authority.certificate))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            self._session = session
            application = web.Application(client_max_size=1 << 24)
            application.router.add_route("*", "/{path:.*}", self._forward)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            self._serving.set()
            await self._stopping.wait()
            await runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        tried = 3
        if request.method in WRITES:
            if self.died.is_set():
                return _nobody_hears()  # sent by a process that is dead by now
            write = _identity(request, body)
            tried = self.writes[write] = self.writes.get(write, 0) + 1
        if tried == 1:
            return self._die()
        headers = {name: request.headers[name] for name in ("Content-Type", "Accept") if name in request.headers}
        url = self._plane.server + request.raw_path
        async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
            if tried == 2:
                await answer.read()
                return self._die()
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            with contextlib.suppress(ConnectionError):  # the operator died while it was told something
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response

    def _die(self) -> web.Response:
        self.died.set()
        self.kills += 1
        self._kill()
        return _nobody_hears()


def _nobody_hears() -> web.Response:
    return web.Response(status=503)


def _identity(request: web.Request, body: bytes) -> str:
    """The same for the same intent, whenever and on whatever version of the object it is sent."""
    document: Any = json.loads(body) if body else {}
    if request.path.endswith("/events"):
        return f"POST event {document['reason']}: {document['message']}"
    told = ""
    if request.path.endswith("/status"):
        told = hashlib.sha256(_VOLATILE.sub("", json.dumps(document["status"])).encode()).hexdigest()[:8]
    return f"{request.method} {request.path} {told}".strip()
