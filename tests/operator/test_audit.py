"""Liveness: a stream is dead when the API server holds what it never delivered, not when nothing happens."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline_operator.audit import BLIND_SECONDS, TOLERATED_SECONDS, Audit
from plumbline_operator.resources import PODS, PREFERENCE_JOBS


class Server:
    """What the API server holds."""

    def __init__(self) -> None:
        self.held: list[dict[str, Any]] = []

    async def list(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return self.held


class Setting:
    def __init__(self) -> None:
        self.now = 0.0
        self.server = Server()
        self.behind: list[str] = []
        self.audit = Audit(
            self.server,  # type: ignore[arg-type]
            [PREFERENCE_JOBS],
            [],
            lambda resource, item: self.behind.append(item["metadata"]["uid"]),
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


async def test_an_operator_that_cannot_list_is_not_healthy(setting: Setting) -> None:
    await setting.audits(1)
    setting.now += BLIND_SECONDS + 1
    assert setting.audit.silent() == ["audit"]


def test_only_what_is_audited_is_asked_for() -> None:
    audit = Audit(Server(), [PODS], [], lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        audit.delivered(PREFERENCE_JOBS, {"uid": "a", "resourceVersion": "1"}, deleted=False)
