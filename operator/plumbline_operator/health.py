"""Probes: `/healthz` fails when a watch stream is dead (see `audit`), `/readyz` until the operator works on keys."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


class HealthServer:
    """Serves the probes."""

    def __init__(self, port: int, silent_streams: Callable[[], list[str]], ready: Callable[[], bool]) -> None:
        self._port = port
        self._silent_streams = silent_streams
        self._ready = ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        silent = self._silent_streams()
        if silent:
            return web.Response(status=503, text=f"watch streams are silent: {', '.join(silent)}\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self._ready() else web.Response(status=503, text="starting\n")
