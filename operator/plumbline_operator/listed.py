"""What the watch streams began with: enough for a first look at a job that finds nothing to do.

An operator that starts over thousands of running jobs has just been given all their objects in lists. Most of those
jobs are as they should be, which needs no reading of every object once more. A look at what was listed may find just
that. As soon as it finds anything to do, or needs what was not listed, it counts for nothing, and the job is read live.

The lists are not of one moment. That is harmless for a look that does nothing: an object that is younger than what was
looked at comes by a stream, in a version that no look has seen, and its job is looked at again.
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
    """Objects by namespace and job, until somebody looks at the job or anything newer is heard of it.

    They are packed: parsed, the objects of thousands of jobs would take many times the memory of all else.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[tuple[str, str], dict[tuple[str, str], bytes]] = {}
        self._listed: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def keep(self, resource: Resource, document: Mapping[str, Any]) -> None:
        """An object that a list holds; passed over unless it is a job or a child of one."""
        metadata = document["metadata"]
        job = metadata["name"] if resource.kind in JOBS else (metadata.get("labels") or {}).get(JOB_NAME_LABEL)
        if job is None or (resource.kind not in JOBS and resource.kind not in CHILDREN):
            return
        key = metadata["namespace"], job
        self._listed.setdefault(key, self._clock())
        self._jobs.setdefault(key, {})[resource.kind, metadata["name"]] = _pack(document)

    def drop(self, key: JobKey) -> None:
        """Something newer was heard of the job."""
        self._jobs.pop((key.namespace, key.name), None)
        self._listed.pop((key.namespace, key.name), None)

    def take(self, key: JobKey) -> ListedJob | None:
        """What was listed of a job, for the one look that it is good for; None if that is nothing, or too old."""
        since = self._listed.get((key.namespace, key.name), float("-inf"))
        objects = self._jobs.get((key.namespace, key.name), {})
        self.drop(key)
        fresh = self._clock() - since <= LISTED_SECONDS and (key.kind, key.name) in objects
        return ListedJob(objects) if fresh else None


def _pack(document: Mapping[str, Any]) -> bytes:
    """Without the record of who has set which field, at which no look looks."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    return zlib.compress(json.dumps({**document, "metadata": metadata}, separators=(",", ":")).encode(), level=1)


def _unpack(packed: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(zlib.decompress(packed))
    return document
