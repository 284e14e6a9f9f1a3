"""What the watch streams began with: enough for a first look at a job that finds nothing to do.

An operator that starts over thousands of running jobs has just been given all their objects in lists. Most of those
jobs are as they should be, which needs no reading of every object once more. A look at what was listed may find just
that. As soon as it finds anything to do, or needs what was not listed, it counts for nothing, and the job is read live.

The lists are not of one moment, so what was listed of a job counts only while nothing else was heard of it. What is
younger than that comes by a stream, in a version that no look has seen, and the job is looked at again.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from plumbline_operator.resources import CHILDREN, JOB_NAME_LABEL, JOBS, JobKey, Resource

LISTED_SECONDS = 120.0
"""So long what was listed is good for a look: a stream that died would tell of nothing newer."""


class NotListed(Exception):
    """A look asked for something that no stream lists."""


class ListedJob:
    """The listed objects of one job; reads as the API does."""

    def __init__(self, objects: Mapping[tuple[str, str], bytes]) -> None:
        self._objects = objects

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """One object, or None if none of that name was listed yet; raises NotListed for what is not watched."""
        if resource.kind not in JOBS and resource.kind not in CHILDREN:
            raise NotListed(resource.plural)
        packed = self._objects.get((resource.kind, name))
        return _unpack(packed) if packed is not None else None

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str | None = None, fields: str | None = None
    ) -> list[dict[str, Any]]:
        """Always raises NotListed."""
        raise NotListed(resource.plural)


class ListedObjects:
    """Objects by namespace and job, until somebody looks at the job or anything else is heard of it.

    They are packed: parsed, the objects of thousands of jobs would take many times the memory of all else.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[tuple[str, str], dict[tuple[str, str], bytes]] = {}
        self._heard: set[tuple[str, str]] = set()
        """Jobs of which something else was heard: what is listed of them is only a part."""
        self._closed_at: float | None = None

    def keep(self, resource: Resource, document: Mapping[str, Any]) -> bool:
        """An object that a list holds. False for what is no job and no child of one, and for what comes too late."""
        metadata = document["metadata"]
        job = metadata["name"] if resource.kind in JOBS else (metadata.get("labels") or {}).get(JOB_NAME_LABEL)
        if job is None or (resource.kind not in JOBS and resource.kind not in CHILDREN):
            return False
        key = metadata["namespace"], job
        if self._closed_at is not None or key in self._heard:
            return False
        self._jobs.setdefault(key, {})[resource.kind, metadata["name"]] = _pack(document)
        return True

    def close(self) -> None:
        """All is listed: from now on looks may be taken, and what lists hold later is no longer all that there is."""
        if self._closed_at is None:
            self._closed_at = self._clock()
            self._heard.clear()

    def drop(self, key: JobKey) -> None:
        """Something else was heard of the job."""
        self._jobs.pop((key.namespace, key.name), None)
        if self._closed_at is None:
            self._heard.add((key.namespace, key.name))
        elif not self._is_fresh():
            self._jobs.clear()  # of an operator that stands by, and has looked at nothing

    def take(self, key: JobKey) -> ListedJob | None:
        """What was listed of a job, for the one look that it is good for; None if that is nothing, or too old."""
        objects = self._jobs.pop((key.namespace, key.name), {})
        return ListedJob(objects) if self._is_fresh() and (key.kind, key.name) in objects else None

    def _is_fresh(self) -> bool:
        return self._closed_at is not None and self._clock() - self._closed_at <= LISTED_SECONDS


def _pack(document: Mapping[str, Any]) -> bytes:
    """Without the record of who has set which field, at which no look looks."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    return zlib.compress(json.dumps({**document, "metadata": metadata}, separators=(",", ":")).encode(), level=1)


def _unpack(packed: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(zlib.decompress(packed))
    return document
