"""Watch streams: kopf turns them into events, and an event becomes a key on the queue, nothing else.

No handler here has state, retries or finalizers; kopf writes nothing to any object. Which jobs an event concerns is all
that is found out; what to do about it is decided elsewhere, from live reads.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from plumbline_operator.api import LISTED_A_PAGE
from plumbline_operator.audit import Audit
from plumbline_operator.child_index import ChildIndex
from plumbline_operator.departed import DepartedPods
from plumbline_operator.job_metrics import figures_of
from plumbline_operator.listed import ListedObjects
from plumbline_operator.login import connection_info
from plumbline_operator.metrics import WatchActivity
from plumbline_operator.queue import WorkQueue
from plumbline_operator.registry import JobRegistry, RuntimeName
from plumbline_operator.resources import (
    CHILDREN,
    EVENTS,
    JOB_NAME_LABEL,
    JOB_UID_LABEL,
    JOBS,
    KIND_LABEL,
    PODS,
    RUNTIMES,
    JobKey,
    Resource,
)
from plumbline_operator.seen import SeenVersions
from plumbline_operator.streams import keep_streams_alive

TOLD_SECONDS = 30.0
"""Between two words about lists that do not come."""
_POD_NAME_PARTS = 3
"""Parts that a pod's name has after the job's: role, attempt, index."""

logger = logging.getLogger(__name__)


def audited(*, cluster_scope: bool) -> tuple[Resource, ...]:
    """The resources that are watched and audited; without cluster scope none that lies in no namespace."""
    resources = (*JOBS.values(), *RUNTIMES.values(), *CHILDREN.values())
    return tuple(resource for resource in resources if resource.namespaced or cluster_scope)


class Watcher:
    """Handlers of all watched resources."""

    def __init__(
        self,
        queue: WorkQueue[JobKey],
        jobs: JobRegistry,
        departed: DepartedPods,
        children: ChildIndex,
        seen: SeenVersions,
        listed: ListedObjects,
    ) -> None:
        self._queue = queue
        self._jobs = jobs
        self._departed = departed
        self._children = children
        self._seen = seen
        self._listed = listed
        self._works = False
        self._missing: dict[str, set[JobKey]] = {}
        """Known jobs that the last audit did not find, by kind."""

    def all_listed(self) -> None:
        """Each stream has told what it begins with."""
        self._listed.close()

    def work_begins(self) -> None:
        """From now on keys are queued, first of all those of all known jobs: new ones go first, those that have ended
        come last.

        An operator that stands by for another one queues nothing: it would keep a key of every job that ever was, and
        begin with them.
        """
        self._works = True
        for key in self._jobs.keys_by_need():
            self._queue.add(key, routine=not self._jobs.is_new(key))

    def _add(self, key: JobKey, *, routine: bool = False, listed: bool = False) -> None:
        if not listed:
            self._listed.drop(key)
        if self._works:
            self._queue.add(key, routine=routine)

    def _gone(self, key: JobKey) -> None:
        """A job that was deleted: reconciled, which forgets it, or forgotten here where nothing is."""
        self._add(key)
        if not self._works:
            self._jobs.remove(key)
            self._departed.forget(key)
            self._children.forget(key.namespace, key.name)

    def concern(
        self, resource: Resource, document: Mapping[str, Any], *, routine: bool = False, listed: bool = False
    ) -> None:
        """Queue the jobs that an object concerns, of which nothing is new if it was `listed` and kept. Its metadata is
        enough, but for runtimes named by new jobs."""
        metadata = document["metadata"]
        if resource.kind in JOBS:
            self._add(JobKey(resource.kind, metadata["namespace"], metadata["name"]), routine=routine, listed=listed)
        elif resource.kind in RUNTIMES:
            for key in self._jobs.waiting_for((resource.kind, metadata.get("namespace"), metadata["name"])):
                self._add(key, routine=routine, listed=listed)
        elif resource == EVENTS:
            self._concern_pod_event(document)
        else:
            owner = _owner(metadata)
            if owner is not None:
                self._add(owner, routine=routine, listed=listed)

    def concern_later(self, resource: Resource, document: Mapping[str, Any]) -> None:
        """`concern` about what no stream told of: behind what they tell."""
        self.concern(resource, document, routine=True)

    def is_seen(self, resource: Resource, metadata: Mapping[str, Any]) -> bool:
        """Whether the job that the object is, or belongs to, was decided on with it in this very version."""
        if resource.kind in JOBS:
            return self._seen.has(JobKey(resource.kind, metadata["namespace"], metadata["name"]), metadata)
        owner = _owner(metadata)
        return owner is not None and self._seen.has(owner, metadata)

    def notice_listed(self, resource: Resource, present: Sequence[Mapping[str, Any]]) -> None:
        """Queue the known jobs that are gone, or have a child that is, and those that are there and not known.

        Nobody may have told of the deletion: a stream that starts anew begins with a list, which tells of nothing that
        is gone.
        """
        self._children.add(resource, present)
        if resource.kind not in JOBS:
            for namespace, job in self._children.unlisted(resource, present):
                keys = self._jobs.keys_named(namespace, job)
                for key in keys:
                    self._add(key, routine=True)
                if not keys:
                    self._children.forget(namespace, job)
            return
        names = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in present}
        known = self._jobs.keys(resource.kind)
        missing = {key for key in known if (key.namespace, key.name) not in names}
        # A job may be younger than the list. Who works looks; who stands by forgets what two audits did not find.
        for key in missing if self._works else missing & self._missing.get(resource.kind, set()):
            self._gone(key)
        self._missing[resource.kind] = missing
        for key in {JobKey(resource.kind, *name) for name in names}.difference(known):
            self._jobs.store(key, "")
            self._add(key, routine=True)

    def know(self, resource: Resource, document: Mapping[str, Any]) -> None:
        """Remember a job's phase, the runtime that it names, and what metrics show of it."""
        metadata = document["metadata"]
        key = JobKey(resource.kind, metadata["namespace"], metadata["name"])
        self._jobs.store(key, (document.get("status") or {}).get("phase") or "")
        self._jobs.describe(key, figures_of(document))
        reference = (document.get("spec") or {}).get("runtimeRef")
        if isinstance(reference, Mapping) and reference.get("name"):
            kind = str(reference.get("kind", "ClusterTrainerRuntime"))
            scope = key.namespace if kind == "TrainerRuntime" else None
            runtime: RuntimeName = (kind, scope, str(reference["name"]))
            self._jobs.names_runtime(key, runtime)

    def remember(self, pod: Mapping[str, Any]) -> None:
        """Keep the last state of a pod that was deleted."""
        key = _owner(pod["metadata"])
        if key is not None and key in self._jobs:
            self._departed.store(key, pod)

    def _concern_pod_event(self, event: Mapping[str, Any]) -> None:
        involved = event.get("involvedObject") or {}
        parts = str(involved.get("name", "")).rsplit("-", _POD_NAME_PARTS)
        if len(parts) == _POD_NAME_PARTS + 1:
            for key in self._jobs.keys_named(str(involved.get("namespace")), parts[0]):
                self._add(key)

    def take(
        self, resource: Resource, document: Mapping[str, Any], *, deleted: bool = False, listed: bool = False
    ) -> None:
        """What a stream delivered: in the list that it began with, or as it happened."""
        metadata = document["metadata"]
        if deleted:
            self._children.remove(resource, document)
        else:
            self._children.add(resource, [document])
        if resource.kind in JOBS and deleted:
            self._gone(JobKey(resource.kind, metadata["namespace"], metadata["name"]))
            return
        if resource.kind in JOBS:
            self.know(resource, document)
        elif resource == PODS and deleted:
            self.remember(document)
        if deleted or not self.is_seen(resource, metadata):
            kept = listed and self._listed.keep(resource, document)
            self.concern(resource, document, listed=kept)


class Delivery:
    """What the streams say goes to the watcher, and to the audit, which knows from it whether they keep up."""

    def __init__(self, watcher: Watcher, audit: Audit, activity: WatchActivity, namespaces: Sequence[str]) -> None:
        self._watcher = watcher
        self._audit = audit
        self._activity = activity
        self._watched = {(resource.group, resource.plural): resource for resource in (*audit.resources, EVENTS)}
        everywhere: list[str | None] = [None]
        self._unlisted = {
            (resource.group, resource.plural, namespace)
            for resource in audit.resources
            for namespace in (namespaces if namespaces and resource.namespaced else everywhere)
        }
        self._all_listed = asyncio.Event()

    async def wait_until_listed(self) -> None:
        """Returns when each stream, but that of events, has told what it begins with."""
        while True:
            try:
                async with asyncio.timeout(TOLD_SECONDS):
                    await self._all_listed.wait()
            except TimeoutError:
                waits = sorted({plural for _, plural, _ in self._unlisted})
                logger.warning("No work before everything is listed", extra={"waits_for": ", ".join(waits)})
            else:
                return

    def handlers(self) -> kopf.OperatorRegistry:
        """kopf's registry with one `on.event` handler for each watched resource."""
        registry = kopf.OperatorRegistry()
        for resource in self._watched.values():
            self._handle(registry, resource)
        return registry

    def take_listed(self, group: str, plural: str, document: Mapping[str, Any]) -> None:
        """An object that a list holds."""
        self._deliver(self._watched[group, plural], document, listed=True)

    def list_ended(self, group: str, plural: str, namespace: str | None) -> None:
        """A stream has told what it begins with."""
        self._unlisted.discard((group, plural, namespace))
        if not self._unlisted:
            self._watcher.all_listed()
            self._all_listed.set()

    def _handle(self, registry: kopf.OperatorRegistry, resource: Resource) -> None:
        async def on_event(event: Mapping[str, Any], **_: Any) -> None:
            self._deliver(resource, event["object"], deleted=event["type"] == "DELETED")

        register = kopf.on.event(
            resource.group, resource.version, resource.plural, registry=registry, id=f"watch-{resource.plural}"
        )
        register(on_event)

    def _deliver(
        self, resource: Resource, document: Mapping[str, Any], *, deleted: bool = False, listed: bool = False
    ) -> None:
        self._activity.touch(resource.plural)
        if resource in self._audit.resources:
            self._audit.delivered(resource, document["metadata"], deleted)
        self._watcher.take(resource, document, deleted=deleted, listed=listed)


def _owner(metadata: Mapping[str, Any]) -> JobKey | None:
    """The job that a child's labels name."""
    labels = metadata.get("labels") or {}
    kind, name = labels.get(KIND_LABEL), labels.get(JOB_NAME_LABEL)
    return JobKey(kind, metadata["namespace"], name) if kind in JOBS and name else None


class _Backoffs:
    """Waits between the tries of one request, without end: an API server that is down for hours ends no stream."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1.0, 2.0, 4.0, 8.0), itertools.repeat(15.0))


class NothingRemembered(kopf.DiffBaseStorage):
    """What kopf compares an object with to find what has changed: nothing, for no handler here asks.

    Otherwise it copies all of every object on every event, which with thousands of jobs is most of what a watch costs.
    """

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        raise NotImplementedError("no handler changes objects")


def kopf_settings() -> kopf.OperatorSettings:
    """Settings with which kopf only watches, and does not hang on a connection that died without a word."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NothingRemembered()
    settings.peering.standalone = True
    settings.scanning.disabled = True  # no rights to list namespaces and CRDs are needed
    # A stream is renewed by the server after 4 minutes, by the client a little later, and when it has been without
    # event and bookmark for 70 s: the three ways in which a watch was seen to fall silent.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 260
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = LISTED_A_PAGE
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    # kopf gives up a stream, and with it the process, when a request has failed so many times.
    settings.networking.error_backoffs = _Backoffs()
    # A task for each object lives so long after its last event, and keeps that event: at a start with thousands of
    # objects this is what memory goes into.
    settings.queueing.idle_timeout = 0.1
    for resource in CHILDREN.values():
        settings.watching.label_selectors[resource.group, resource.version, resource.plural] = JOB_UID_LABEL
    settings.watching.field_selectors["", "v1", EVENTS.plural] = "involvedObject.kind=Pod,type=Warning"
    return settings


async def watch(
    delivery: Delivery, configuration: Configuration, namespaces: Sequence[str], ready: asyncio.Event
) -> None:
    """Runs kopf until it is told to stop by a signal; raises if one of its tasks dies."""
    registry = delivery.handlers()
    keep_streams_alive(delivery)

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection_info(configuration)

    kopf.on.login(registry=registry, id="login")(login)
    await kopf.operator(
        registry=registry,
        settings=kopf_settings(),
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        standalone=True,
        ready_flag=ready,
    )
