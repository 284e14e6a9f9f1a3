"""The last words of pods that are gone.

A pod that is deleted shows its exit code and termination message for a moment only, between the end of its containers
and its removal, and a live read often comes too late. The watch delivers a deleted object in its last state, so that is
kept here until the next attempt's pods depart. It is a courtesy and not state: after a restart the operator knows less
about how the pods ended, and decides the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumbline_operator.pods import PodView, read_pod
from plumbline_operator.resources import JOB_UID_LABEL, JobKey


class DepartedPods:
    """Pods of the latest attempt that are gone, by job."""

    def __init__(self) -> None:
        self._pods: dict[JobKey, tuple[str, dict[str, PodView]]] = {}

    def store(self, key: JobKey, document: Mapping[str, Any]) -> None:
        """Keeps a pod that was deleted, if one of its containers has ended."""
        try:
            pod = read_pod(document)
        except (KeyError, ValueError):
            return  # not one of ours, whatever its labels say
        if not any(container.terminated for container in pod.containers):
            return
        job_uid = document["metadata"]["labels"][JOB_UID_LABEL]
        known_uid, pods = self._pods.get(key, (job_uid, {}))
        if known_uid != job_uid:
            pods = {}
        kept = {name: other for name, other in pods.items() if other.attempt >= pod.attempt}
        self._pods[key] = (job_uid, {**kept, pod.name: pod})

    def of(self, key: JobKey, job_uid: str) -> tuple[PodView, ...]:
        """The departed pods of exactly this job."""
        known_uid, pods = self._pods.get(key, ("", {}))
        return tuple(pods.values()) if known_uid == job_uid else ()

    def forget(self, key: JobKey) -> None:
        self._pods.pop(key, None)
