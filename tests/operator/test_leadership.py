"""Who leads stops in time: when the lease is another's, and when it might be."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import aiohttp
import pytest
from kubernetes.aio.leaderelection import leaderelection

from plumbline_operator import leadership as leadership_module
from plumbline_operator.leadership import Leadership, LeadershipLost


class Server:
    """Holds one lease."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.down = False

    async def get(self, *_: Any) -> dict[str, Any] | None:
        if self.down:
            raise aiohttp.ClientConnectionError("refused")
        return copy.deepcopy(self.lease)

    async def create(self, _: Any, manifest: dict[str, Any]) -> bool:
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = "1"
        return True

    async def patch(self, resource: Any, namespace: str, name: str, change: dict[str, Any]) -> dict[str, Any]:
        if self.down:
            raise aiohttp.ClientConnectionError("refused")
        assert self.lease is not None
        self.lease["spec"] |= change["spec"]
        return copy.deepcopy(self.lease)

    @property
    def holder(self) -> Any:
        return self.lease and self.lease["spec"].get("holderIdentity")


class Setting:
    """One operator that takes part, and whether it works."""

    def __init__(self) -> None:
        self.server = Server()
        self.leadership = Leadership(self.server, "team", "operator")  # type: ignore[arg-type]
        self.begun = asyncio.Event()
        self.works = False

    async def work(self) -> None:
        self.works = True
        self.begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.works = False

    async def until_lost(self) -> None:
        """Runs election and work like the operator does; returns when it gives up."""
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(self.leadership.run())
            group.create_task(self.leadership.while_leading(self.work))


@pytest.fixture
async def setting(monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(leadership_module, "RETRY_SECONDS", 1)  # the least that the election takes
    monkeypatch.setattr(leadership_module, "CHECK_SECONDS", 0.02)
    return Setting()


async def test_a_leader_that_finds_anothers_name_in_the_lease_stops_at_once(setting: Setting) -> None:
    running = asyncio.create_task(setting.until_lost())
    await asyncio.wait_for(setting.begun.wait(), 5)
    assert setting.leadership.leads
    assert setting.server.lease is not None
    setting.server.lease["spec"]["holderIdentity"] = "another"
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(running, 2)
    assert caught.group_contains(LeadershipLost, match="held by another")
    assert not setting.works
    assert not setting.leadership.leads
    await setting.leadership.end()
    assert setting.server.holder == "another", "it is not this operator's to give away"


async def test_work_ends_when_the_lease_was_not_renewed_whatever_the_time_of_day_says(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = asyncio.create_task(setting.until_lost())
    await asyncio.wait_for(setting.begun.wait(), 5)
    monkeypatch.setattr(leadership_module, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(leaderelection.time, "time", lambda: 0.0)  # the election now has all the time in the world
    setting.server.down = True
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(running, 5)
    assert caught.group_contains(LeadershipLost, match="not renewed")
    assert not setting.works


async def test_a_leader_that_is_told_to_stop_gives_the_lease_back(setting: Setting) -> None:
    running = asyncio.create_task(setting.until_lost())
    await asyncio.wait_for(setting.begun.wait(), 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not setting.works
    await setting.leadership.end()
    assert setting.server.holder is None
