"""Creates many jobs and sees when each has all of its children: snapshot, Service, and pod, which comes last."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from tests.operator.job_documents import preference_job
from tests.operator.live_cluster import GROUP
from tests.scale.world import send

CREATORS = 8
"""Requests to create a job that are under way at the same time."""


@dataclass
class Births:
    """When jobs were created and when their pods were, by job name (seconds on one monotonic clock)."""

    created: dict[str, float] = field(default_factory=dict)
    complete: dict[str, float] = field(default_factory=dict)
    pods: int = 0
    """Pods of these jobs that were ever seen; more than jobs would be duplicates."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def latencies(self, names: Sequence[str]) -> list[float]:
        """Seconds from job to pod, sorted."""
        return sorted(self.complete[name] - self.created[name] for name in names)

    async def wait_for(self, names: Sequence[str], timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while not self.complete.keys() >= set(names):
                self.changed.clear()
                await self.changed.wait()


async def watch_births(session: aiohttp.ClientSession, births: Births, watching: asyncio.Event) -> None:
    """Notes the first sight of every pod, until cancelled."""
    query = "/api/v1/pods?watch=1&labelSelector=plumbline.dev/job-name&timeoutSeconds=3600"
    async with session.get(query) as response:
        watching.set()
        rest = b""
        async for chunk in response.content.iter_any():
            seen = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if not line.startswith(b'{"type":"ADDED"'):
                    continue
                name = json.loads(line)["object"]["metadata"]["labels"]["plumbline.dev/job-name"]
                if name in births.created:
                    births.pods += 1
                    births.complete.setdefault(name, seen)
                    births.changed.set()


async def create_jobs(
    session: aiohttp.ClientSession, births: Births, names: Sequence[str], namespaces: Sequence[str]
) -> None:
    """All at once, spread over the namespaces."""
    waiting = list(enumerate(names))

    async def create() -> None:
        while waiting:
            number, name = waiting.pop(0)
            await create_job(session, births, name, namespaces[number % len(namespaces)])

    await asyncio.gather(*(create() for _ in range(CREATORS)))


async def create_job(session: aiohttp.ClientSession, births: Births, name: str, namespace: str) -> None:
    job = preference_job(name, namespace)
    births.created[name] = time.monotonic()
    await send(session, "POST", f"{GROUP}/namespaces/{namespace}/preferencejobs", job)
