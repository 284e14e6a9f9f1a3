"""What counts as an object that is not there: a job that is taken for gone by mistake is forgotten."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from plumbline_operator.api import Api, ApiError
from plumbline_operator.resources import PREFERENCE_JOBS


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        ({"kind": "Status", "reason": "NotFound", "details": {"name": "tune", "kind": "preferencejobs"}}, True),
        ({"kind": "Status", "reason": "NotFound", "details": {"name": "another"}}, False),
        ({"kind": "Status", "reason": "NotFound", "details": None}, False),
        ({"kind": "Status", "reason": "", "details": {"name": "tune"}}, False),
        ("404 page not found", False),
    ],
)
async def test_an_object_is_gone_only_when_the_api_server_says_so_of_it(answer: Any, gone: bool) -> None:
    application = web.Application()

    async def respond(_: web.Request) -> web.Response:
        return web.Response(status=404, text=answer if isinstance(answer, str) else json.dumps(answer))

    application.router.add_get("/{path:.*}", respond)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    api = Api(configuration)
    try:
        if gone:
            assert await api.get(PREFERENCE_JOBS, "team", "tune") is None
        else:
            with pytest.raises(ApiError, match="404"):
                await api.get(PREFERENCE_JOBS, "team", "tune")
    finally:
        await api.close()
        await runner.cleanup()
