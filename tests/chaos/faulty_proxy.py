"""Stands between the operator's pods and the API server; while armed, it answers in the API server's place.

The operator is told of it by KUBERNETES_SERVICE_HOST and _PORT. Tokens pass through; the certificate is signed by the
cluster's own authority, so that the operator notices no difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from typing import Any

import aiohttp
from aiohttp import web

from cluster.control_plane import ControlPlane

FAULTS = ("409", "429", "500", "timeout", "cut")
_HOP_BY_HOP = frozenset({"connection", "host", "keep-alive", "transfer-encoding", "upgrade", "content-length"})


class FaultyProxy:
    """HTTPS on `address`:`port` in front of `plane`. Use it as a context manager."""

    def __init__(self, plane: ControlPlane, address: str, port: int) -> None:
        self._plane, self.address, self.port = plane, address, port
        self._fault, self._until = "", 0.0
        self.answered = 0
        """Requests that got a fault instead of an answer."""

        self._streams: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._main()], daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        if not self._serving.wait(10):
            raise TimeoutError("the proxy does not serve")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def arm(self, fault: str, seconds: float) -> None:
        """For so many seconds every request gets `fault`, one of `FAULTS`; `cut` breaks all connections once."""
        if fault == "cut":
            self._loop.call_soon_threadsafe(self._cut)
            return
        self._fault, self._until = fault, time.monotonic() + seconds

    def _cut(self) -> None:
        for task in list(self._streams):
            task.cancel()

    async def _main(self) -> None:
        upstream = ssl.create_default_context(cafile=str(self._plane.authority.certificate))
        certificate, key = self._plane.authority.sign(
            "chaos-proxy", "/CN=chaos-proxy", [f"IP:{self.address}", "DNS:kubernetes.default.svc"]
        )
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(certificate, key)
        connector = aiohttp.TCPConnector(ssl=upstream, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            self._session = session
            application = web.Application(client_max_size=1 << 24)
            application.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, self.address, self.port, ssl_context=serving).start()
            self._serving.set()
            await self._stopping.wait()
            await runner.cleanup()
            unfinished = asyncio.all_tasks() - {asyncio.current_task()}
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if time.monotonic() < self._until:
            self.answered += 1
            return await self._faulty()
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            return await self._forward(request)
        except aiohttp.ClientError:
            return web.Response(status=502)
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._streams.discard(task)

    async def _faulty(self) -> web.Response:
        if self._fault == "timeout":
            await asyncio.sleep(max(0.0, self._until - time.monotonic()))
            return web.Response(status=504)
        code = int(self._fault)
        reason = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError"}[code]
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
                  "message": "an injected fault"}  # fmt: skip
        headers = {"Retry-After": "1"} if code == 429 else {}
        return web.Response(status=code, text=json.dumps(status), content_type="application/json", headers=headers)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = self._plane.server + request.raw_path
        async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            with contextlib.suppress(ConnectionError):  # the operator was killed while it was told something
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response
