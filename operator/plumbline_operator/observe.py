"""Reads the world for one reconciliation: the only place where the operator looks at objects.

Reads are by name where names are known (`child_index`), and live, but for the first look after a start (`listed`). What
is read rarely is read only when it can matter: the runtime while there is no snapshot, warning events while a pod has
not started, logs and nodes when a pod has failed or is going away. Events, logs and capacities say why, and never what
to do: they are read together, in a short time, and done without where they cannot be had.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from plumbline_api.contract import StatusReport
from plumbline_api.running import Resources
from plumbline_api.status import Attempt, JobStatus
from plumbline_operator.api import COURTESY_SECONDS, NO_ANSWER, ApiError
from plumbline_operator.capacity import CapacityReader
from plumbline_operator.child_index import ChildIndex
from plumbline_operator.children import pod_name, service_name
from plumbline_operator.decide.acceptance import runtime_reference
from plumbline_operator.decide.conditions import is_terminal
from plumbline_operator.decide.draft import read_status
from plumbline_operator.decide.stall import SILENT_SECONDS
from plumbline_operator.departed import DepartedPods
from plumbline_operator.log_tails import LogReader
from plumbline_operator.model import NodeCapacity, Observed, PodEvent, ServiceView
from plumbline_operator.pods import PodView, parse_time, read_pod
from plumbline_operator.resources import (
    ATTEMPT_LABEL,
    CONFIG_MAPS,
    EVENTS,
    JOB_NAME_LABEL,
    JOB_UID_LABEL,
    NODES,
    PODS,
    RUNTIMES,
    SERVICES,
    JobKey,
    Resource,
)
from plumbline_operator.snapshot import snapshot_name

MOST_SINGLE_READS = 8
"""Pods that are read one by one; of more a list is cheaper."""
MOST_PODS_EXPLAINED = 8
"""Pods of a job whose events are read."""
CLOCKS_DIFFER = timedelta(seconds=5)

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """Where objects are read: the API server, or what it has just listed."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """One object, or None if there is none of that name."""

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str | None = None, fields: str | None = None
    ) -> list[dict[str, Any]]:
        """All objects that match."""


async def observe(
    api: Reader,
    key: JobKey,
    report: StatusReport | None,
    departed: DepartedPods,
    children: ChildIndex,
    capacity: CapacityReader,
    logs: LogReader,
    silent_seconds: float = 0.0,
) -> Observed | None:
    """Everything that `decide` needs about a job; None if the job is gone.

    `report` is the last one of rank 0, which has left every question unanswered for `silent_seconds`.
    """
    job = await api.get(key.resource, key.namespace, key.name)
    if job is None:
        return None
    # Objects of a list carry their kind on the list only; a single one does, but old servers left it out at times.
    job = {"apiVersion": key.resource.api_version, "kind": key.kind, **job}
    uid = job["metadata"]["uid"]
    status = read_status(job)
    attempt = _open_attempt(status)
    pods, services, snapshot = await asyncio.gather(
        _pods(api, children, key, _expected_pods(job, status)),
        _services(api, children, key, attempt),
        api.get(CONFIG_MAPS, key.namespace, snapshot_name(key.name)),
    )
    ours = tuple(read_pod(pod) for pod in pods if _belongs(pod, uid))
    foreign = [f"Service {item['metadata']['name']}" for item in services if not _belongs(item, uid)]
    foreign += [f"Pod {pod['metadata']['name']}" for pod in pods if not _belongs(pod, uid)]
    if snapshot is not None and not _belongs(snapshot, uid):
        foreign.append(f"ConfigMap {snapshot['metadata']['name']}")
        snapshot = None
    runtime = await _runtime(api, key, job) if snapshot is None and not foreign else None
    hangs = silent_seconds >= SILENT_SECONDS or (report is not None and report.stall is not None)
    waiting = [pod for pod in ours if pod.phase == "Pending" and pod.scheduled]
    ending = [pod for pod in ours if pod.stopping and not pod.disruption] if attempt is not None else []
    nodes = await _nodes(api, ours)
    warnings, endings, free, log_tails = await asyncio.gather(
        _events(api, key.namespace, waiting, ",type=Warning"),
        _events(api, key.namespace, ending),
        _capacity(capacity, ours),
        logs.read(key.namespace, _telling(attempt, ours, hangs), nodes),
    )
    seen = [job, *pods, *services, *([snapshot] if snapshot is not None else [])]
    return Observed(
        job=job,
        versions={item["metadata"]["uid"]: item["metadata"].get("resourceVersion", "") for item in seen},
        snapshot=snapshot,
        runtime=runtime,
        pods=ours,
        departed=tuple(pod for pod in departed.of(key, uid) if pod.uid not in {present.uid for present in ours}),
        services=tuple(_service_view(service, key.name) for service in services if _belongs(service, uid)),
        foreign=tuple(foreign),
        warnings=warnings,
        endings=endings,
        report=report if report is not None and report.uid in ("", uid) else None,
        silent_seconds=silent_seconds,
        capacity=free,
        log_tails=log_tails,
        nodes=nodes,
    )


async def _pods(api: Reader, index: ChildIndex, key: JobKey, expected: Iterable[str]) -> list[dict[str, Any]]:
    names = index.names(PODS, key.namespace, key.name).union(expected)
    if len(names) > MOST_SINGLE_READS:
        pods = await api.list(PODS, key.namespace, labels=f"{JOB_NAME_LABEL}={key.name}")
        for gone in names - {pod["metadata"]["name"] for pod in pods}:
            index.discard(PODS, key.namespace, key.name, gone)
        return pods
    return await _by_name(api, index, PODS, key, names)


async def _services(api: Reader, index: ChildIndex, key: JobKey, attempt: Attempt | None) -> list[dict[str, Any]]:
    """The job's Services, and whatever else stands under the name that the open attempt's is to have.

    Server-side apply would take it over, and with an owner reference garbage collection would delete it after the job.
    """
    expected = [] if attempt is None else [service_name(key.name, attempt.number)]
    return await _by_name(api, index, SERVICES, key, index.names(SERVICES, key.namespace, key.name).union(expected))


async def _by_name(
    api: Reader, index: ChildIndex, resource: Resource, key: JobKey, names: Iterable[str]
) -> list[dict[str, Any]]:
    asked = sorted(names)
    found = await asyncio.gather(*(api.get(resource, key.namespace, name) for name in asked))
    for name, document in zip(asked, found, strict=True):
        if document is None:
            index.discard(resource, key.namespace, key.name, name)
    return [document for document in found if document is not None]


def _expected_pods(job: Mapping[str, Any], status: JobStatus) -> list[str]:
    """Pods that the last attempt has, is to have, or may have left behind: a dead stream must not hide one of them."""
    if not status.attempts:
        return []
    try:
        replicas = Resources.model_validate((job.get("spec") or {}).get("resources") or {}).replicas
    except ValueError:
        return []  # the spec is checked elsewhere, and nothing is started from one that is invalid
    return [pod_name(job["metadata"]["name"], status.attempts[-1].number, rank) for rank in range(replicas)]


def _belongs(child: Mapping[str, Any], uid: str) -> bool:
    owners = child["metadata"].get("ownerReferences") or []
    labels = child["metadata"].get("labels") or {}
    return labels.get(JOB_UID_LABEL) == uid and any(owner.get("uid") == uid for owner in owners)


def _open_attempt(status: JobStatus) -> Attempt | None:
    last = status.attempts[-1] if status.attempts else None
    return None if is_terminal(status) or last is None or last.end_time is not None else last


def _service_view(service: Mapping[str, Any], job_name: str) -> ServiceView:
    metadata = service["metadata"]
    attempt = int(metadata["labels"][ATTEMPT_LABEL])
    name = metadata["name"]
    if name != service_name(job_name, attempt):
        attempt = 0  # somebody copied our labels: never the rendezvous of an attempt
    return ServiceView(name, metadata["uid"], attempt, service.get("spec", {}).get("clusterIP") or "")


async def _runtime(api: Reader, key: JobKey, job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    reference = runtime_reference(job)
    if reference is None or reference[0] not in RUNTIMES:
        return None  # the spec is invalid, and its validation says so
    resource = RUNTIMES[reference[0]]
    try:
        return await api.get(resource, key.namespace if resource.namespaced else None, reference[1])
    except ApiError as error:
        if error.code == 403 and not resource.namespaced:
            return None  # an operator without a ClusterRole: for it there are none
        raise


async def _events(api: Reader, namespace: str, pods: list[PodView], narrower: str = "") -> tuple[PodEvent, ...]:
    """Newest first."""
    found = await asyncio.gather(*(_events_of(api, namespace, pod, narrower) for pod in pods[:MOST_PODS_EXPLAINED]))
    newest_first = sorted(itertools.chain(*found), key=lambda pair: pair[0], reverse=True)
    return tuple(told for _, told in newest_first)


async def _events_of(api: Reader, namespace: str, pod: PodView, narrower: str) -> list[tuple[str, PodEvent]]:
    """The events about one pod with their times."""
    fields = f"involvedObject.kind=Pod,involvedObject.name={pod.name}{narrower}"
    try:
        async with asyncio.timeout(COURTESY_SECONDS):
            events = await api.list(EVENTS, namespace, fields=fields)
    except NO_ANSWER as error:
        logger.info("No events of a pod", extra={"pod": f"{namespace}/{pod.name}", "error": str(error)})
        return []
    return [
        (
            event.get("lastTimestamp") or event.get("eventTime") or "",
            PodEvent(pod.name, pod.uid, event.get("reason") or "", event.get("message") or ""),
        )
        for event in events
        if is_about(event, pod)
    ]


async def _capacity(capacity: CapacityReader, pods: tuple[PodView, ...]) -> tuple[NodeCapacity, ...]:
    return await capacity.read() if any("nsufficient" in pod.unschedulable_message for pod in pods) else ()


def is_about(event: Mapping[str, Any], pod: PodView) -> bool:
    """Whether an event about a pod of this name is about this very pod.

    The taint manager names no uid. Its events count from the deletion on that they tell of.
    """
    uid = event["involvedObject"].get("uid")
    if uid:
        return bool(uid == pod.uid)
    told = parse_time(event.get("lastTimestamp") or event.get("eventTime"))
    return told is not None and pod.deletion_requested is not None and told >= pod.deletion_requested - CLOCKS_DIFFER


def _telling(attempt: Attempt | None, pods: tuple[PodView, ...], hangs: bool) -> list[PodView]:
    """Pods whose logs are read: those that failed in the attempt that is still open, and all where it `hangs`. They are
    kept when it is closed, and a rank that hangs shows where."""
    if attempt is None:
        return []
    ours = [pod for pod in pods if pod.attempt == attempt.number]
    return [pod for pod in ours if pod.failed_container or (hangs and pod.phase == "Running")]


async def _nodes(api: Reader, pods: tuple[PodView, ...]) -> dict[str, bool]:
    """Whether the nodes of pods that go away, or do not answer, are ready. Unknown without permission to read nodes."""
    ready = {}
    asked = [pod for pod in pods if pod.node and not pod.finished and (pod.stopping or pod.not_ready_since)]
    for name in {pod.node for pod in asked}:
        try:
            node = await api.get(NODES, None, name)
        except ApiError as error:
            if error.code != 403:
                raise
            continue
        conditions = ((node or {}).get("status") or {}).get("conditions") or []
        ready[name] = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return ready
