"""The first look at a job after a start: at what was listed, and only if that shows that there is nothing to do."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline_api.contract import StatusReport
from plumbline_operator import reconcile
from plumbline_operator.child_index import ChildIndex
from plumbline_operator.departed import DepartedPods
from plumbline_operator.listed import LISTED_SECONDS, ListedObjects, NotListed
from plumbline_operator.metrics import OperatorMetrics, WatchActivity
from plumbline_operator.model import Decision, DeleteJob, Observed
from plumbline_operator.queue import WorkQueue
from plumbline_operator.registry import JobRegistry
from plumbline_operator.resources import (
    CLUSTER_TRAINER_RUNTIMES,
    CONFIG_MAPS,
    EVENTS,
    NODES,
    PODS,
    PREFERENCE_JOBS,
    RLVR_JOBS,
    JobKey,
)
from plumbline_operator.seen import SeenVersions
from plumbline_operator.status_pull import StatusPuller
from tests.operator.job_documents import preference_job, stored

KEY = JobKey("PreferenceJob", "team", "tune")


def job() -> dict[str, Any]:
    document = stored(preference_job())
    document["metadata"] |= {"namespace": "team", "resourceVersion": "7", "managedFields": [{"manager": "kubectl"}]}
    document["status"] = {"phase": "Running", "attempt": 1, "attempts": [{"number": 1}]}
    return document


def child(name: str, job_name: str = "tune", **more: Any) -> dict[str, Any]:
    labels = {"plumbline.dev/job-name": job_name, "plumbline.dev/job-uid": job()["metadata"]["uid"]}
    return {"metadata": {"name": name, "namespace": "team", "uid": name, "labels": labels}, **more}


async def test_what_was_listed_is_read_by_name_without_the_record_of_its_fields_managers() -> None:
    listed = ListedObjects()
    listed.keep(PREFERENCE_JOBS, job())
    listed.keep(PODS, child("tune-trainer-1-0", status={"phase": "Running"}))
    listed.keep(PODS, child("other-trainer-1-0", "other"))
    listed.close()
    found = listed.take(KEY)
    assert found is not None
    read = await found.get(PREFERENCE_JOBS, "team", "tune")
    assert read is not None
    assert read == {**job(), "metadata": {k: v for k, v in job()["metadata"].items() if k != "managedFields"}}
    assert await found.get(PODS, "team", "tune-trainer-1-0") == child("tune-trainer-1-0", status={"phase": "Running"})
    assert await found.get(PODS, "team", "other-trainer-1-0") is None
    assert await found.get(CONFIG_MAPS, "team", "tune-snapshot") is None
    for resource in (NODES, EVENTS, CLUSTER_TRAINER_RUNTIMES):
        with pytest.raises(NotListed):
            await found.get(resource, None, "tune")
    with pytest.raises(NotListed):
        await found.list(PODS, "team")


def listed_job(*, closed: bool = True) -> ListedObjects:
    listed = ListedObjects()
    assert listed.keep(PREFERENCE_JOBS, job())
    if closed:
        listed.close()
    return listed


def test_it_is_good_for_one_look() -> None:
    listed = listed_job()
    assert listed.take(KEY) is not None
    assert listed.take(KEY) is None


def test_it_is_good_for_a_job_of_this_kind() -> None:
    assert listed_job().take(JobKey("RLVRJob", "team", "tune")) is None


def test_no_look_is_taken_before_all_is_listed() -> None:
    assert listed_job(closed=False).take(KEY) is None


def test_it_is_not_good_for_long_and_then_nothing_of_it_is_kept() -> None:
    now = 0.0
    listed = ListedObjects(clock=lambda: now)
    listed.keep(PREFERENCE_JOBS, job())
    listed.close()
    now = LISTED_SECONDS + 1
    listed.drop(JobKey("PreferenceJob", "team", "other"))
    assert listed._jobs == {}
    listed = ListedObjects(clock=lambda: now)
    listed.keep(PREFERENCE_JOBS, job())
    listed.close()
    now += LISTED_SECONDS + 1
    assert listed.take(KEY) is None


def test_what_is_listed_of_a_job_that_was_heard_of_meanwhile_is_only_a_part() -> None:
    listed = ListedObjects()
    assert listed.keep(PODS, child("tune-trainer-1-0"))
    listed.drop(KEY)
    assert not listed.keep(PREFERENCE_JOBS, job())
    listed.close()
    assert listed.take(KEY) is None


def test_a_list_of_a_stream_that_begins_anew_is_only_a_part_too() -> None:
    listed = ListedObjects()
    listed.close()
    assert not listed.keep(PREFERENCE_JOBS, job())
    assert listed.take(KEY) is None


def test_nothing_is_kept_of_what_is_no_job_and_no_child_of_one() -> None:
    listed = ListedObjects()
    assert not listed.keep(PODS, {"metadata": {"name": "somebodys", "namespace": "team"}})
    assert not listed.keep(CLUSTER_TRAINER_RUNTIMES, {"metadata": {"name": "torch"}})
    assert not listed.keep(EVENTS, child("tune.1"))
    assert listed.keep(RLVR_JOBS, job())


class Asked(Exception):
    """The API server was asked."""


class NobodyAsks:
    """In the place of the API."""

    async def get(self, *_: Any) -> Any:
        raise Asked


class Operator:
    """A reconciler that finds the job listed, with a decision that the test makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, decision: Decision, pod: dict[str, Any] | None = None) -> None:
        api: Any = NobodyAsks()
        self.queue: WorkQueue[JobKey] = WorkQueue()
        self.seen, self.listed, self.jobs = SeenVersions(), ListedObjects(), JobRegistry()
        self.puller = StatusPuller(api, lambda _: None, through_api_server=False, progress_interval=15)
        metrics = OperatorMetrics(self.jobs, self.queue, WatchActivity())
        self.reconciler = reconcile.Reconciler(
            api,
            self.queue,
            self.jobs,
            self.puller,
            DepartedPods(),
            ChildIndex(),
            self.seen,
            self.listed,
            metrics,
            progress_interval=15,
        )
        self.looked_at: list[Observed] = []
        self.report: StatusReport | None = None

        def decides(observed: Observed, _: Any) -> Decision:
            self.looked_at.append(observed)
            return decision

        monkeypatch.setattr(reconcile, "decide", decides)
        self.listed.keep(PREFERENCE_JOBS, job())
        self.listed.keep(PODS, child("tune-trainer-1-0"))
        snapshot = child("tune-snapshot", data={})
        snapshot["metadata"]["ownerReferences"] = [{"uid": job()["metadata"]["uid"]}]
        self.listed.keep(CONFIG_MAPS, snapshot)
        if pod is not None:
            self.listed.keep(PODS, pod)
        self.listed.close()


async def test_a_job_that_needs_nothing_is_not_read_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch, Decision(requeue_after=60))
    await operator.reconciler(KEY)
    (observed,) = operator.looked_at
    assert observed.snapshot is not None
    assert operator.seen.has(KEY, {"uid": job()["metadata"]["uid"], "resourceVersion": "7"})
    assert operator.jobs.phases() == {("PreferenceJob", "Running"): 1}
    assert operator.queue.scheduled == 1


@pytest.mark.parametrize(
    "decision", [Decision((DeleteJob("u"),)), Decision(again=True)], ids=["a step", "another look"]
)
async def test_nothing_is_ever_done_about_what_was_only_listed(
    monkeypatch: pytest.MonkeyPatch, decision: Decision
) -> None:
    operator = Operator(monkeypatch, decision)
    with pytest.raises(Asked):
        await operator.reconciler(KEY)
    assert len(operator.looked_at) == 1
    assert KEY not in operator.seen


async def test_a_look_that_needs_more_than_was_listed_is_taken_live(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = child("tune-trainer-1-0", spec={"nodeName": "n"}, status={"phase": "Pending"})
    pending["metadata"]["ownerReferences"] = [{"uid": job()["metadata"]["uid"]}]
    pending["metadata"]["labels"] |= {
        "plumbline.dev/attempt": "1",
        "plumbline.dev/rank": "0",
        "plumbline.dev/role": "trainer",
    }
    pending["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
    operator = Operator(monkeypatch, Decision(), pending)
    with pytest.raises(Asked):
        await operator.reconciler(KEY)
    assert operator.looked_at == []


async def test_only_the_first_look_is_at_what_was_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch, Decision())
    operator.seen.store(KEY, {})
    with pytest.raises(Asked):
        await operator.reconciler(KEY)
    assert operator.looked_at == []
