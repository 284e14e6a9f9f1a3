"""Events, logs and capacities: what explains a job never stands in the way of what the job needs."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from plumbline_api.status import JobStatus
from plumbline_operator import apply as apply_module
from plumbline_operator import capacity as capacity_module
from plumbline_operator import log_tails as log_tails_module
from plumbline_operator import observe as observe_module
from plumbline_operator.api import ApiError
from plumbline_operator.apply import apply
from plumbline_operator.capacity import CapacityReader
from plumbline_operator.child_index import ChildIndex
from plumbline_operator.departed import DepartedPods
from plumbline_operator.log_tails import LogReader
from plumbline_operator.model import Decision, PostEvent, WriteStatus
from plumbline_operator.observe import observe
from plumbline_operator.pods import ContainerView, PodView
from plumbline_operator.resources import EVENTS, NODES, PREFERENCE_JOBS, JobKey, Resource
from tests.operator.job_documents import preference_job, stored

KEY = JobKey("PreferenceJob", "team", "tune")
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
FAILURES = [ApiError(500, "InternalError", "etcd"), ApiError(403, "Forbidden", "no"), aiohttp.ClientError("refused")]


class Server:
    """Answers with what the test gives it: an error, a wait, or documents."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.hangs = False
        self.asked: list[str] = []
        self.text = "its last line"
        self.held: list[dict[str, Any]] = []

    async def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.hangs:
            await asyncio.sleep(60)
        if self.failure is not None:
            raise self.failure

    async def create(self, *_: Any) -> bool:
        await self._answer("create")
        return True

    async def apply_status(self, *_: Any) -> dict[str, Any]:
        self.asked.append("apply_status")
        return {"metadata": {"resourceVersion": "2"}}

    async def log(self, namespace: str, pod: str, *_: Any) -> str:
        await self._answer(f"log {pod}")
        return self.text

    async def list(self, resource: Resource, *_: Any, **__: Any) -> list[dict[str, Any]]:
        await self._answer(f"list {resource.plural}")
        return self.held if resource == NODES else []

    async def get(self, resource: Resource, *_: Any) -> dict[str, Any] | None:
        return stored(preference_job()) if resource == PREFERENCE_JOBS else None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(log_tails_module, "LOG_SECONDS", 0.1)
    for module in (apply_module, capacity_module, observe_module):
        monkeypatch.setattr(module, "COURTESY_SECONDS", 0.1)
    return Server()


def failed(rank: int, node: str = "node-1") -> PodView:
    ended = ContainerView("trainer", exit_code=1, finished=NOON)
    return PodView(f"pod-{rank}", f"uid-{rank}", 1, rank, phase="Failed", node=node, containers=(ended,))


def hanging(rank: int) -> PodView:
    running = ContainerView("trainer", running=True)
    return PodView(f"pod-{rank}", f"uid-{rank}", 1, rank, phase="Running", node="node-1", containers=(running,))


@pytest.mark.parametrize("failure", [*FAILURES, None], ids=str)
async def test_a_status_is_written_though_its_event_cannot_be_posted(server: Any, failure: Exception | None) -> None:
    server.failure, server.hangs = failure, failure is None
    steps = (PostEvent("Normal", "Started", "it starts", "1"), WriteStatus(JobStatus(), urgent=True))
    await apply(server, KEY, stored(preference_job()), Decision(steps), write_status=True, observed_at=0.0)
    assert server.asked == ["create", "apply_status"]


async def test_logs_of_many_pods_take_no_longer_than_one(server: Any) -> None:
    server.hangs = True
    began = time.monotonic()
    logs = await LogReader(server).read("team", [failed(rank) for rank in range(8)], {})
    assert time.monotonic() - began < 0.5
    assert set(logs.values()) == {""}


async def test_the_log_of_a_container_that_has_ended_is_read_once(server: Any) -> None:
    reader = LogReader(server)
    for _ in range(3):
        assert await reader.read("team", [failed(0)], {}) == {"pod-0": "its last line"}
    assert server.asked == ["log pod-0"]


async def test_a_log_that_may_grow_or_could_not_be_read_is_read_again(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = LogReader(server)
    server.failure = ApiError(500, "", "")
    assert await reader.read("team", [failed(0)], {}) == {"pod-0": ""}
    server.failure = None
    assert await reader.read("team", [failed(0)], {}) == {"pod-0": ""}, "not in the same moment"
    monkeypatch.setattr(log_tails_module, "KEPT_SECONDS", 0.0)
    later = time.monotonic() + 10
    monkeypatch.setattr(log_tails_module.time, "monotonic", lambda: later)
    assert await reader.read("team", [failed(0), hanging(1)], {}) == {"pod-0": "its last line", "pod-1": server.text}
    server.text = "one more line"
    assert (await reader.read("team", [hanging(1)], {}))["pod-1"] == "one more line"


async def test_a_kubelet_that_is_known_not_to_answer_is_not_asked(server: Any) -> None:
    pods = [failed(0, "gone"), failed(1, "there"), failed(2, "unknown")]
    logs = await LogReader(server).read("team", pods, {"gone": False, "there": True})
    assert set(logs) == {"pod-1", "pod-2"}


async def test_what_is_kept_of_logs_has_a_bound(server: Any) -> None:
    reader = LogReader(server)
    for rank in range(log_tails_module.MOST_KEPT + 20):
        await reader.read("team", [failed(rank)], {})
    assert len(reader._kept) == log_tails_module.MOST_KEPT


@pytest.mark.parametrize("failure", [*FAILURES, None], ids=str)
async def test_capacities_that_cannot_be_read_are_those_that_were(
    server: Any, failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity_module, "KEPT_SECONDS", -1.0)
    reader = CapacityReader(server)
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "2"}}
    server.held = [{"metadata": {"name": "node-1"}, "status": ready}]
    known = await reader.read()
    assert [node.name for node in known] == ["node-1"]
    server.failure, server.hangs = failure, failure is None
    forbidden = isinstance(failure, ApiError) and failure.code == 403
    assert await reader.read() == (() if forbidden else known)
    assert await CapacityReader(server).read() == ()


@pytest.mark.parametrize("failure", [*FAILURES, None], ids=str)
async def test_a_job_is_observed_without_the_events_of_its_pods(
    server: Any, failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = {
        "metadata": {
            "name": "tune-trainer-1-0",
            "uid": "uid-of-pod",
            "labels": {"plumbline.dev/job-uid": "uid-1", "plumbline.dev/attempt": "1", "plumbline.dev/rank": "0"},
            "ownerReferences": [{"uid": "uid-1"}],
        },
        "spec": {"nodeName": "node-1"},
    }

    async def pods(*_: Any) -> list[Any]:
        return [pod]

    monkeypatch.setattr(observe_module, "_pods", pods)
    server.failure, server.hangs = failure, failure is None
    found = await observe(server, KEY, None, DepartedPods(), ChildIndex(), CapacityReader(server), LogReader(server))
    assert found is not None
    assert (len(found.pods), found.warnings) == (1, ())
    assert f"list {EVENTS.plural}" in server.asked
