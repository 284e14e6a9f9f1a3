"""Carries a decision out, step by step, in its order."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from plumbline_operator.api import COURTESY_SECONDS, NO_ANSWER, Api, ApiError
from plumbline_operator.model import (
    Annotate,
    Apply,
    Decision,
    Delete,
    DeleteJob,
    Manifest,
    PostEvent,
    Refusal,
    SuspendJob,
    WriteStatus,
)
from plumbline_operator.resources import EVENTS, PODS, JobKey

COMPONENT = "plumbline-operator"

logger = logging.getLogger(__name__)


FRESH_SECONDS = 5.0
"""So long after it was observed a job is taken for unchanged without asking."""


class JobChanged(Exception):
    """The job was changed or replaced since it was observed: what was decided no longer holds."""


@dataclass
class _KnownVersion:
    """The version of the job that the steps are for, and when it was known to be the present one."""

    version: str
    at: float


@dataclass(frozen=True)
class Applied:
    """What became of the steps."""

    refusals: tuple[Refusal, ...]
    """The children that the API server refused."""

    version: str
    """The job's resource version after its status was written; each write is of the version before and no other."""


async def apply(
    api: Api, key: JobKey, job: Mapping[str, Any], decision: Decision, *, write_status: bool, observed_at: float
) -> Applied:
    """Does the steps.

    `write_status` false leaves out a status that may wait; `observed_at` is the time of the monotonic clock at which
    the job was observed. Raises JobChanged when the job is found to be no longer the one that was observed, and
    ApiError for every failure that asking again may mend.
    """
    known = _KnownVersion(job["metadata"]["resourceVersion"], observed_at)
    refusals: list[Refusal] = []
    for step in decision.steps:
        match step:
            case PostEvent():
                await _post_event(api, key, job, step)
            case WriteStatus():
                if write_status or step.urgent:
                    known.at = time.monotonic()
                    known.version = await _write_status(api, key, job, step)
            case Apply():
                if step.resource == PODS:
                    await _confirm(api, key, job, known)
                refusal = await _apply_child(api, step)
                if refusal is not None:
                    refusals.append(refusal)
            case Delete():
                await api.delete(
                    step.resource, key.namespace, step.name, uid=step.uid, grace_seconds=step.grace_seconds
                )
            case Annotate():
                await _annotate(api, key, step)
            case SuspendJob():
                await _suspend_job(api, key, job)
            case DeleteJob():
                await api.delete(key.resource, key.namespace, key.name, uid=step.uid)
    return Applied(tuple(refusals), known.version)


async def _confirm(api: Api, key: JobKey, job: Mapping[str, Any], known: _KnownVersion) -> None:
    """Makes sure that the decision is not one of the past: nothing in a pod that is created is conditional.

    This process may have been frozen since it looked, and another operator may have closed the attempt. Every attempt
    that ends is written to the job first, so a job of the same version still has it.
    """
    if time.monotonic() - known.at <= FRESH_SECONDS:
        return
    asked = time.monotonic()
    present = await api.get(key.resource, key.namespace, key.name)
    metadata = present["metadata"] if present is not None else {}
    if (metadata.get("uid"), metadata.get("resourceVersion")) != (job["metadata"]["uid"], known.version):
        raise JobChanged(f"{key} was changed since it was observed")
    known.at = asked


async def _apply_child(api: Api, step: Apply) -> Refusal | None:
    try:
        await api.apply(step.resource, step.manifest)
    except ApiError as error:
        if not error.refuses_the_object:
            raise
        return Refusal(f"{step.manifest['kind']} {step.manifest['metadata']['name']}", error.code, error.message)
    return None


async def _annotate(api: Api, key: JobKey, step: Annotate) -> None:
    """The uid makes the write conditional; a pod that is gone needs no annotation."""
    change = {"metadata": {"uid": step.uid, "annotations": dict(step.annotations)}}
    try:
        await api.patch(step.resource, key.namespace, step.name, change)
    except ApiError as error:
        if error.code not in (404, 409):
            raise


async def _suspend_job(api: Api, key: JobKey, job: Mapping[str, Any]) -> None:
    metadata = job["metadata"]
    change = {
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "spec": {"runPolicy": {"suspend": True}},
    }
    try:
        await api.patch(key.resource, key.namespace, key.name, change)
    except ApiError as error:
        if error.code in (404, 409):
            raise JobChanged(str(error)) from error
        raise


async def _write_status(api: Api, key: JobKey, job: Mapping[str, Any], step: WriteStatus) -> str:
    """Returns the version that the job has then."""
    metadata = job["metadata"]
    manifest = {
        "apiVersion": key.resource.api_version,
        "kind": key.kind,
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            # Both make the write conditional: it was decided on this version of this very object.
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "status": without_empty_text(step.status.to_document()),
    }
    try:
        written = await api.apply_status(key.resource, manifest)
    except ApiError as error:
        if error.code in (404, 409):
            raise JobChanged(str(error)) from error
        raise
    return str(written["metadata"]["resourceVersion"])


def without_empty_text(value: Any) -> Any:
    """The document without empty strings: server-side apply before Kubernetes 1.21 stores them as null."""
    if isinstance(value, Mapping):
        return {name: without_empty_text(part) for name, part in value.items() if part != ""}
    if isinstance(value, list):
        return [without_empty_text(part) for part in value]
    return value


async def _post_event(api: Api, key: JobKey, job: Mapping[str, Any], event: PostEvent) -> None:
    """The name is a digest of what is told and when: an event that was posted already is not posted twice."""
    metadata = job["metadata"]
    told = "\0".join((metadata["uid"], event.type, event.reason, event.message, event.occasion))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{key.name}.{hashlib.sha256(told.encode()).hexdigest()[:16]}",
            "namespace": key.namespace,
        },
        "involvedObject": {
            "apiVersion": key.resource.api_version,
            "kind": key.kind,
            "name": key.name,
            "namespace": key.namespace,
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:1024],
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": f"plumbline.dev/{COMPONENT}",
        "reportingInstance": COMPONENT,
    }
    try:
        async with asyncio.timeout(COURTESY_SECONDS):
            await api.create(EVENTS, manifest)
    except NO_ANSWER as error:
        # Refused, as in a namespace that is being deleted, or not answered: what is told must not stop what is done.
        about = {"key": str(key), "reason": event.reason, "told": event.message, "error": str(error)}
        logger.warning("An event cannot be posted", extra=about)
