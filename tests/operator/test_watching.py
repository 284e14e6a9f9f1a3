"""From events to keys: which jobs an object concerns, and what kopf is told."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from plumbline_operator import watching
from plumbline_operator.audit import Audit
from plumbline_operator.child_index import ChildIndex
from plumbline_operator.departed import DepartedPods
from plumbline_operator.listed import ListedObjects
from plumbline_operator.metrics import WatchActivity
from plumbline_operator.queue import WorkQueue
from plumbline_operator.registry import JobRegistry
from plumbline_operator.resources import (
    CLUSTER_TRAINER_RUNTIMES,
    EVENTS,
    PODS,
    PREFERENCE_JOBS,
    RLVR_JOBS,
    JobKey,
    Resource,
)
from plumbline_operator.seen import SeenVersions
from plumbline_operator.watching import Delivery, Watcher, kopf_settings


class Setting:
    def __init__(self) -> None:
        self.queue: WorkQueue[JobKey] = WorkQueue()
        self.jobs = JobRegistry()
        self.seen = SeenVersions()
        self.children = ChildIndex()
        self.departed = DepartedPods()
        self.listed = ListedObjects()
        self.watcher = Watcher(self.queue, self.jobs, self.departed, self.children, self.seen, self.listed)

    def queued(self) -> list[JobKey]:
        return [*self.queue._heard, *self.queue._routine]


@pytest.fixture
async def setting() -> Setting:
    """Of an operator that works."""
    setting = Setting()
    setting.watcher.work_begins()
    return setting


@pytest.fixture
async def standby() -> Setting:
    """Of an operator that waits for its turn."""
    return Setting()


def named(name: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "team", "name": name}}


async def test_known_jobs_that_are_gone_without_a_word_are_looked_at(setting: Setting) -> None:
    for name in ("here", "gone"):
        setting.watcher.know(PREFERENCE_JOBS, named(name))
    setting.watcher.know(RLVR_JOBS, named("gone"))
    setting.watcher.notice_listed(PODS, [])
    assert setting.queue.depth == 0
    setting.watcher.notice_listed(PREFERENCE_JOBS, [named("here")])
    assert setting.queued() == [JobKey("PreferenceJob", "team", "gone")]


async def test_a_job_whose_pod_is_gone_without_a_word_is_looked_at(setting: Setting) -> None:
    setting.watcher.know(PREFERENCE_JOBS, named("tune"))

    def pod(name: str, job: str) -> dict[str, Any]:
        return {"metadata": {"namespace": "team", "name": name, "labels": {"plumbline.dev/job-name": job}}}

    setting.watcher.notice_listed(PODS, [pod("tune-trainer-1-0", "tune"), pod("lost-trainer-1-0", "lost")])
    assert setting.queue.depth == 0
    setting.watcher.notice_listed(PODS, [])
    assert setting.queued() == [JobKey("PreferenceJob", "team", "tune")]
    assert setting.children.names(PODS, "team", "tune") == {"tune-trainer-1-0"}, "a live read finds what is true"
    assert setting.children.names(PODS, "team", "lost") == frozenset(), "of a job that nobody looks at"


async def test_a_job_that_is_there_and_not_known_is_looked_at(setting: Setting) -> None:
    setting.watcher.notice_listed(PREFERENCE_JOBS, [named("forgotten")])
    assert setting.queued() == [JobKey("PreferenceJob", "team", "forgotten")]


def in_phase(name: str, phase: str) -> dict[str, Any]:
    return {**named(name), "status": {"phase": phase}}


def pod_of(job: str) -> dict[str, Any]:
    labels = {"plumbline.dev/kind": "PreferenceJob", "plumbline.dev/job-name": job, "plumbline.dev/job-uid": "u"}
    labels |= {"plumbline.dev/attempt": "1", "plumbline.dev/rank": "0"}
    ended = {"name": "trainer", "state": {"terminated": {"exitCode": 1}}}
    metadata = {"namespace": "team", "name": f"{job}-trainer-1-0", "uid": "p", "resourceVersion": "1", "labels": labels}
    return {"metadata": metadata, "status": {"phase": "Failed", "containerStatuses": [ended]}}


async def test_an_operator_that_stands_by_keeps_nothing_of_jobs_that_are_gone(standby: Setting) -> None:
    for number in range(50):
        job, pod = in_phase(f"job-{number}", "Running"), pod_of(f"job-{number}")
        job["metadata"] |= {"uid": "u", "resourceVersion": "1"}
        standby.watcher.take(PREFERENCE_JOBS, job, listed=True)
        standby.watcher.take(PODS, pod, listed=True)
        standby.watcher.take(PODS, pod, deleted=True)
        if number % 2:
            standby.watcher.take(PREFERENCE_JOBS, job, deleted=True)
            standby.watcher.take(PODS, pod, deleted=True)
    for _ in range(2):
        standby.watcher.notice_listed(PREFERENCE_JOBS, [])
    assert (standby.queue.depth, len(standby.jobs)) == (0, 0)
    assert standby.departed._pods == {}
    assert standby.children._names == {}
    assert standby.listed._jobs == {}


async def test_an_operator_that_stands_by_keeps_a_job_that_is_younger_than_an_audit_s_list(standby: Setting) -> None:
    young = in_phase("young", "") | {"spec": {"runtimeRef": {"name": "torch"}}}
    standby.watcher.know(PREFERENCE_JOBS, young)
    standby.watcher.notice_listed(PREFERENCE_JOBS, [])
    standby.watcher.notice_listed(PREFERENCE_JOBS, [named("young")])
    standby.watcher.notice_listed(PREFERENCE_JOBS, [])
    standby.watcher.work_begins()
    key = JobKey("PreferenceJob", "team", "young")
    assert standby.queued() == [key]
    assert list(standby.jobs.waiting_for(("ClusterTrainerRuntime", None, "torch"))) == [key]


async def test_who_takes_over_begins_with_the_jobs_that_need_it(standby: Setting) -> None:
    phases = {"done": "Complete", "runs": "Running", "failed": "Failed", "new": ""}
    for name, phase in phases.items():
        standby.watcher.know(PREFERENCE_JOBS, in_phase(name, phase))
    standby.watcher.notice_listed(PREFERENCE_JOBS, [named(name) for name in (*phases, "unheard-of")])
    standby.watcher.concern(PODS, pod_of("long-gone"))
    assert standby.queue.depth == 0
    standby.watcher.work_begins()
    assert [key.name for key in standby.jobs.keys_by_need()] == ["runs", "new", "unheard-of", "done", "failed"]
    assert set(standby.queued()) == set(standby.jobs.keys_by_need())
    taken = [standby.queue._take().name for _ in phases]
    assert taken == ["new", "unheard-of", "runs", "done"], "new jobs first, those that have ended last"
    standby.watcher.concern(PODS, pod_of("later"))
    assert standby.queue.depth == 2


async def test_a_warning_about_a_pod_concerns_the_known_jobs_of_its_name(setting: Setting) -> None:
    setting.watcher.know(PREFERENCE_JOBS, named("my-job"))
    for pod in ("my-job-trainer-1-0", "other-trainer-1-0", "short"):
        involved = {"kind": "Pod", "namespace": "team", "name": pod}
        setting.watcher.concern(EVENTS, {**named(f"{pod}.1"), "involvedObject": involved})
    assert setting.queued() == [JobKey("PreferenceJob", "team", "my-job")]


def test_kopf_never_gives_up_a_stream_however_long_the_api_server_is_down() -> None:
    backoffs = kopf_settings().networking.error_backoffs
    assert sum(itertools.islice(backoffs, 300)) > 3600  # type: ignore[arg-type]
    assert max(itertools.islice(backoffs, 300)) <= 15, "each request begins anew"  # type: ignore[arg-type]


def version(number: str, **labels: str) -> dict[str, Any]:
    return {"namespace": "team", "name": "tune", "uid": "u", "resourceVersion": number, "labels": labels}


async def test_a_version_that_was_decided_on_is_no_news_and_any_other_is(setting: Setting) -> None:
    key = JobKey("PreferenceJob", "team", "tune")
    labels = {"plumbline.dev/kind": "PreferenceJob", "plumbline.dev/job-name": "tune"}
    setting.seen.store(key, {"u": "7"})
    assert setting.watcher.is_seen(PREFERENCE_JOBS, version("7"))
    assert setting.watcher.is_seen(PODS, version("7", **labels))
    assert not setting.watcher.is_seen(PODS, version("8", **labels))
    assert not setting.watcher.is_seen(PODS, {**version("7", **labels), "uid": "of-another"})
    assert not setting.watcher.is_seen(RLVR_JOBS, version("7"))
    assert not setting.watcher.is_seen(PODS, version("7"))
    setting.seen.forget(key)
    assert not setting.watcher.is_seen(PREFERENCE_JOBS, version("7"))


def whole(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job and its pod."""
    job = in_phase(name, "Running")
    job["metadata"] |= {"uid": f"uid-of-{name}", "resourceVersion": "1"}
    return job, pod_of(name)


async def test_what_was_listed_counts_until_anything_is_heard_of_the_job(setting: Setting) -> None:
    for name in ("quiet", "heard"):
        job, pod = whole(name)
        setting.watcher.take(PREFERENCE_JOBS, job, listed=True)
        setting.watcher.take(PODS, pod, listed=True)
    setting.watcher.all_listed()
    setting.watcher.take(PODS, whole("heard")[1])
    quiet, heard = (JobKey("PreferenceJob", "team", name) for name in ("quiet", "heard"))
    assert set(setting.queued()) == {quiet, heard}
    listed = setting.listed.take(quiet)
    assert listed is not None
    assert await listed.get(PODS, "team", "quiet-trainer-1-0") == pod_of("quiet")
    assert setting.listed.take(heard) is None


async def test_a_list_that_comes_later_is_news_of_what_it_holds(setting: Setting) -> None:
    job, pod = whole("tune")
    setting.watcher.take(PREFERENCE_JOBS, job, listed=True)
    setting.watcher.take(PODS, pod, listed=True)
    setting.watcher.all_listed()
    setting.watcher.take(PODS, pod, listed=True)
    assert setting.listed.take(JobKey("PreferenceJob", "team", "tune")) is None


class Streams:
    """What the streams of one operator say, by way of its delivery."""

    def __init__(self, setting: Setting, *namespaces: str) -> None:
        resources = (PREFERENCE_JOBS, PODS, CLUSTER_TRAINER_RUNTIMES)
        self.audit = Audit(None, resources, namespaces, lambda *_: None, lambda *_: None)  # type: ignore[arg-type]
        self.delivery = Delivery(setting.watcher, self.audit, WatchActivity(), namespaces)

    def list_ends(self, resource: Resource, namespace: str | None) -> bool:
        """Returns whether all have ended."""
        self.delivery.list_ended(resource.group, resource.plural, namespace)
        return self.delivery._all_listed.is_set()


async def test_all_is_listed_when_each_stream_has_told_what_it_begins_with(setting: Setting) -> None:
    streams = Streams(setting)
    ends = [(PODS, None), (EVENTS, None), (PODS, None), (PREFERENCE_JOBS, None), (CLUSTER_TRAINER_RUNTIMES, None)]
    assert [streams.list_ends(*end) for end in ends] == [False, False, False, False, True]


async def test_who_waits_for_lists_says_for_which(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "TOLD_SECONDS", 0.01)
    streams = Streams(setting)
    streams.list_ends(PREFERENCE_JOBS, None)
    waiting = asyncio.create_task(streams.delivery.wait_until_listed())
    async with asyncio.timeout(10):
        while not caplog.records:
            await asyncio.sleep(0.01)
    assert caplog.records[0].waits_for == "clustertrainerruntimes, pods"
    streams.list_ends(PODS, None)
    streams.list_ends(CLUSTER_TRAINER_RUNTIMES, None)
    await asyncio.wait_for(waiting, 10)


async def test_with_several_namespaces_each_has_its_streams(setting: Setting) -> None:
    streams = Streams(setting, "a", "b")
    ends = [(PREFERENCE_JOBS, "a"), (PREFERENCE_JOBS, "b"), (PODS, "b"), (CLUSTER_TRAINER_RUNTIMES, None), (PODS, "a")]
    assert [streams.list_ends(*end) for end in ends] == [False, False, False, False, True]


async def test_the_audit_knows_what_was_listed(setting: Setting) -> None:
    streams = Streams(setting)
    streams.delivery.take_listed("", "pods", pod_of("tune"))
    assert streams.audit._streams[PODS].versions == {"p": "1"}
