"""Liveness: a stream is dead when the API server holds what it never delivered, not when nothing happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from plumbline_operator.api import ApiError
from plumbline_operator.audit import BLIND_SECONDS, TOLERATED_SECONDS, Audit
from plumbline_operator.resources import PODS, PREFERENCE_JOBS


class Server:
    """What the API server holds."""

    def __init__(self) -> None:
        self.held: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[list[dict[str, Any]]]:
        if self.failure is not None:
            raise self.failure
        yield self.held


class Setting:
    def __init__(self) -> None:
        self.now = 0.0
        self.server = Server()
        self.behind: list[str] = []
        self.listed: list[str] = []
        self.audit = Audit(
            self.server,  # type: ignore[arg-type]
            [PREFERENCE_JOBS],
            [],
            lambda resource, item: self.behind.append(item["metadata"]["uid"]),
            lambda resource, items: self.listed.extend(item["metadata"]["uid"] for item in items),
            clock=lambda: self.now,
        )

    def holds(self, version: str) -> None:
        self.server.held = [{"metadata": {"uid": "a", "resourceVersion": version}}]

    def delivers(self, version: str) -> None:
        self.audit.delivered(PREFERENCE_JOBS, {"uid": "a", "resourceVersion": version}, deleted=False)

    async def audits(self, seconds: float) -> None:
        self.now += seconds
        await self.audit.audit()


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_a_quiet_cluster_is_healthy(setting: Setting) -> None:
    setting.holds("5")
    setting.delivers("5")
    for _ in range(10):
        await setting.audits(100)
        assert setting.audit.silent() == []
    assert setting.behind == []


async def test_a_version_that_never_arrives_is_a_dead_stream(setting: Setting) -> None:
    setting.delivers("5")
    setting.holds("9")
    await setting.audits(30)
    await setting.audits(30)
    assert setting.behind == ["a"], "its job is reconciled meanwhile"
    assert setting.audit.silent() == []
    await setting.audits(TOLERATED_SECONDS)
    assert setting.audit.silent() == ["preferencejobs"]


async def test_what_one_audit_alone_found_behind_is_no_dead_stream_however_long_the_next_takes(
    setting: Setting,
) -> None:
    """Such as an object that was deleted while a long list was read: nobody will ever deliver it."""
    setting.holds("9")
    await setting.audits(30)
    setting.now += 2 * TOLERATED_SECONDS
    assert setting.audit.silent() == []
    setting.server.held = []
    await setting.audits(0)
    setting.now += 2 * TOLERATED_SECONDS
    assert setting.audit.silent() == []


async def test_an_object_that_was_never_delivered_counts_too(setting: Setting) -> None:
    setting.holds("9")
    await setting.audits(30)
    await setting.audits(TOLERATED_SECONDS + 1)
    assert setting.audit.silent() == ["preferencejobs"]


async def test_a_late_delivery_heals(setting: Setting) -> None:
    setting.holds("9")
    await setting.audits(30)
    setting.delivers("9")
    await setting.audits(TOLERATED_SECONDS + 1)
    assert setting.audit.silent() == []


async def test_a_busy_object_that_is_always_one_version_ahead_is_no_fault(setting: Setting) -> None:
    for version in range(10, 20):
        setting.holds(str(version))
        setting.delivers(str(version - 1))
        await setting.audits(60)
        assert setting.audit.silent() == []


async def test_a_stream_that_is_ahead_of_the_list_is_no_fault(setting: Setting) -> None:
    setting.holds("9")
    setting.delivers("12")
    await setting.audits(30)
    await setting.audits(TOLERATED_SECONDS + 1)
    assert setting.audit.silent() == []


@pytest.mark.parametrize(
    "failure",
    [
        ApiError(500, "InternalError", "etcdserver: request timed out"),
        ApiError(503, "ServiceUnavailable", "the server is shutting down"),
        ApiError(429, "TooManyRequests", "try again later"),
        aiohttp.ClientConnectionError("connection refused"),
        TimeoutError(),
    ],
)
async def test_an_api_server_that_is_down_for_long_is_no_fault_of_the_operator(
    setting: Setting, failure: Exception
) -> None:
    setting.delivers("5")
    setting.holds("9")
    await setting.audits(30)
    setting.server.failure = failure
    for _ in range(40):
        await setting.audits(30)
        assert setting.audit.silent() == []
    setting.server.failure = None
    await setting.audits(30)
    assert setting.audit.silent() == [], "streams have their time to catch up from when it is back"
    await setting.audits(TOLERATED_SECONDS + 1)
    assert setting.audit.silent() == ["preferencejobs"]


async def test_credentials_that_are_refused_for_long_want_a_new_process(setting: Setting) -> None:
    await setting.audits(1)
    setting.server.failure = ApiError(401, "Unauthorized", "the token has expired")
    await setting.audits(30)
    assert setting.audit.silent() == []
    await setting.audits(BLIND_SECONDS)
    assert setting.audit.silent() == ["audit"]


async def test_an_audit_that_never_ends_is_a_fault(setting: Setting) -> None:
    assert setting.audit.silent() == []
    setting.now += BLIND_SECONDS + 1
    assert setting.audit.silent() == [], "the audits have not begun: the API server's kinds are waited for"
    await setting.audits(1)
    setting.now += BLIND_SECONDS + 1
    assert setting.audit.silent() == ["audit"]


async def test_deletions_that_no_stream_told_of_leave_nothing_behind(setting: Setting) -> None:
    setting.delivers("5")
    setting.holds("5")
    await setting.audits(30)
    setting.server.held = []
    await setting.audits(30)
    await setting.audits(30)
    assert setting.listed == ["a"], "whoever knows more jobs than those looks after them"
    setting.holds("5")  # such an object does not come back, but shows that nothing of it was kept
    await setting.audits(30)
    await setting.audits(30)
    assert setting.behind == ["a"]


async def test_an_object_that_was_created_after_the_list_is_remembered(setting: Setting) -> None:
    setting.delivers("5")
    await setting.audits(30)
    setting.holds("5")
    await setting.audits(30)
    await setting.audits(30)
    assert setting.behind == []


def test_only_what_is_audited_is_asked_for() -> None:
    audit = Audit(Server(), [PODS], [], lambda *_: None, lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        audit.delivered(PREFERENCE_JOBS, {"uid": "a", "resourceVersion": "1"}, deleted=False)
