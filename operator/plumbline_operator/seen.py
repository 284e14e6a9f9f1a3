"""Versions of objects that a reconciliation has seen: an event that brings one of them brings nothing new.

An operator that starts is told of each job and each of its children, and one that writes a child is told of it a moment
later. Without this, each of these events would be one more look at a job that was just looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumbline_operator.resources import JobKey


class SeenVersions:
    """What the last reconciliation of each job saw, if it came to an end."""

    def __init__(self) -> None:
        self._versions: dict[JobKey, Mapping[str, str]] = {}

    def __contains__(self, key: JobKey) -> bool:
        """Whether any reconciliation of the job came to an end."""
        return key in self._versions

    def store(self, key: JobKey, versions: Mapping[str, str]) -> None:
        """Resource versions by uid, of the job and its children."""
        self._versions[key] = versions

    def forget(self, key: JobKey) -> None:
        self._versions.pop(key, None)

    def has(self, key: JobKey, metadata: Mapping[str, Any]) -> bool:
        """Whether the job was decided on with the object in exactly this version."""
        return self._versions.get(key, {}).get(metadata["uid"]) == metadata["resourceVersion"]
