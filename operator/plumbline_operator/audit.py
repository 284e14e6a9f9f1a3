"""Compares what the watch streams delivered with what the API server holds.

A watch that died looks exactly like a quiet cluster, so the time since the last event proves nothing. What does: an
object whose present version no stream has delivered although there was time enough. Every audit lists the metadata of
each watched resource and compares versions, a page at a time with a pause after each: the API server reads every object
for it, and with thousands of jobs this would otherwise be most of what the operator costs it. An object that two audits
find behind gets its job reconciled, so nothing is lost (with 5,000 jobs audits are over two minutes apart). One that
stays behind for `TOLERATED_SECONDS` means that its stream is dead, and the liveness probe fails. So does an audit that
for `BLIND_SECONDS` neither gets on nor fails, or whose credentials are refused for as long. An API server that is down,
overloaded or in trouble is no reason: a new process would find it just the same, and an operator that waits is there
when it comes back.

A stream that starts anew tells what is there and never what went away meanwhile, so each audit also names what it
found, for jobs and children that are known and gone.

Warning events are watched too but not audited: their number has no bound, and a lost one is found by the next
reconciliation, which lists the events of pods that have not started.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from plumbline_operator.api import LISTED_A_PAGE, Api, ApiError
from plumbline_operator.resources import CHILDREN, JOB_UID_LABEL, Resource

AUDIT_SECONDS = 30.0
PAGE_SECONDS = 0.5
"""Between two pages."""
TOLERATED_SECONDS = 90.0
BLIND_SECONDS = 300.0

logger = logging.getLogger(__name__)

Found = Callable[[Resource, Mapping[str, Any]], None]
"""Called with an object that is behind."""
Listed = Callable[[Resource, Sequence[Mapping[str, Any]]], None]
"""Called with the metadata of all objects of a resource that exist."""


@dataclass
class _Stream:
    """What one resource's stream has delivered: versions by uid."""

    versions: dict[str, str] = field(default_factory=dict)
    behind_since: dict[tuple[str, str], float] = field(default_factory=dict)
    """Versions that the API server holds and the stream has not delivered, with when that was first seen."""
    behind_twice: dict[tuple[str, str], float] = field(default_factory=dict)
    """Those of them that two audits in a row have found."""
    unlisted: set[str] = field(default_factory=set)
    """Delivered objects that the last audit did not find: gone, or created just after the list."""


class Audit:
    """Knows whether the streams keep up."""

    def __init__(
        self,
        api: Api,
        resources: Sequence[Resource],
        namespaces: Sequence[str],
        found_behind: Found,
        listed: Listed,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespaces: list[str | None] = list(namespaces) or [None]
        self.resources = tuple(resources)
        self._streams = {resource: _Stream() for resource in resources}
        self._found_behind = found_behind
        self._listed = listed
        self._clock = clock
        self._last_sound: float | None = None
        """When an audit last got on, or ended in a way that says nothing against this process; None before the first
        begins."""

    def delivered(self, resource: Resource, metadata: Mapping[str, Any], deleted: bool) -> None:
        """A stream delivered an object in this version."""
        versions = self._streams[resource].versions
        if deleted:
            versions.pop(metadata["uid"], None)
        elif not _at_least(versions.get(metadata["uid"], ""), metadata["resourceVersion"]):
            # A stream that began anew may overtake what the one before it has left in a queue.
            versions[metadata["uid"]] = metadata["resourceVersion"]

    def silent(self) -> list[str]:
        """Plural names of the resources whose stream is dead; `audit` if the audit itself does not get through."""
        now = self._clock()
        dead = [
            resource.plural
            for resource, stream in self._streams.items()
            if any(now - since > TOLERATED_SECONDS for since in list(stream.behind_twice.values()))
        ]
        blind = self._last_sound is not None and now - self._last_sound > BLIND_SECONDS
        return [*dead, "audit"] if blind else dead

    async def run(self) -> None:
        """Audits until cancelled."""
        self._last_sound = self._clock()
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            await self.audit()

    async def audit(self) -> None:
        """Compares all resources once, as far as the API server answers."""
        try:
            await self._audit()
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("Audit of the watch streams failed", extra={"error": str(error)})
            # Streams cannot catch up while the API server does not answer: they get the full time once it does.
            for stream in self._streams.values():
                stream.behind_since.clear()
                stream.behind_twice.clear()
            if isinstance(error, ApiError) and error.code == 401:
                return
        self._last_sound = self._clock()

    async def _audit(self) -> None:
        for resource, stream in self._streams.items():
            labels = JOB_UID_LABEL if resource.kind in CHILDREN else None
            held: list[dict[str, Any]] = []
            for namespace in self._namespaces if resource.namespaced else [None]:
                pages = self._api.pages(resource, namespace, labels=labels, metadata_only=True)
                async for page in pages:
                    self._last_sound = self._clock()
                    held += page
                    if len(page) >= LISTED_A_PAGE:
                        await asyncio.sleep(PAGE_SECONDS)
            self._compare(resource, stream, held)
            self._listed(resource, held)

    def _compare(self, resource: Resource, stream: _Stream, held: Sequence[Mapping[str, Any]]) -> None:
        """A version that is behind for the second audit in a row is a version the stream did not deliver.

        Between listing and comparing, which is a while where there are many pages, a stream may deliver newer versions
        or a deletion, and a busy object may have a new version at each audit: only the same version, undelivered and
        not overtaken, counts.
        """
        now = self._clock()
        behind: dict[tuple[str, str], float] = {}
        twice: dict[tuple[str, str], float] = {}
        for item in held:
            metadata = item["metadata"]
            version, seen = metadata["resourceVersion"], stream.versions.get(metadata["uid"])
            if seen is not None and _at_least(seen, version):
                continue
            mark = (metadata["uid"], version)
            behind[mark] = stream.behind_since.get(mark, now)
            if mark in stream.behind_since:
                twice[mark] = behind[mark]
                self._found_behind(resource, item)
        stream.behind_since, stream.behind_twice = behind, twice
        unlisted = stream.versions.keys() - {item["metadata"]["uid"] for item in held}
        for uid in unlisted & stream.unlisted:
            del stream.versions[uid]
        stream.unlisted = unlisted - stream.unlisted


def _at_least(seen: str, held: str) -> bool:
    """Whether the delivered version is the held one or a later one.

    Versions of one resource are numbers that grow on every API server in use, and Kubernetes 1.35 promises so; should
    one not be a number, only equality counts.
    """
    if seen.isdecimal() and held.isdecimal():
        return int(seen) >= int(held)
    return seen == held
