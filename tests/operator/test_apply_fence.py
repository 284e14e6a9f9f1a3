"""A decision of the past creates no pods: nothing in the creation itself is conditional."""

from __future__ import annotations

import time
from typing import Any

import pytest

from plumbline_api.status import JobStatus
from plumbline_operator.apply import FRESH_SECONDS, JobChanged, apply
from plumbline_operator.model import Apply, Decision, Step, WriteStatus
from plumbline_operator.resources import PODS, SERVICES, JobKey, Resource
from tests.operator.job_documents import preference_job, stored

KEY = JobKey("PreferenceJob", "team", "tune")
POD = Apply(PODS, {"kind": "Pod", "metadata": {"name": "tune-trainer-1-0", "namespace": "team"}})
SERVICE = Apply(SERVICES, {"kind": "Service", "metadata": {"name": "tune-1", "namespace": "team"}})
STATUS = WriteStatus(JobStatus(), urgent=True)


class Server:
    """The job and what is done."""

    def __init__(self, job: dict[str, Any] | None) -> None:
        self.job = job
        self.done: list[str] = []

    async def get(self, *_: Any) -> dict[str, Any] | None:
        self.done.append("get")
        return self.job

    async def apply(self, resource: Resource, _: Any) -> dict[str, Any]:
        self.done.append(resource.kind)
        return {}

    async def apply_status(self, *_: Any) -> dict[str, Any]:
        self.done.append("status")
        return {"metadata": {"resourceVersion": "2"}}


async def applied(server: Server, age: float, *steps: Step) -> list[str]:
    api: Any = server
    observed_at = time.monotonic() - age
    job = stored(preference_job())
    await apply(api, KEY, job, Decision(steps), write_status=True, observed_at=observed_at)
    return server.done


def job_of(**metadata: str) -> dict[str, Any]:
    job = stored(preference_job())
    job["metadata"] |= metadata
    return job


async def test_a_job_that_was_just_observed_is_not_asked_about() -> None:
    assert await applied(Server(None), 0.0, POD, POD) == ["Pod", "Pod"]


async def test_a_job_that_is_still_the_same_gets_its_pods_however_long_it_took() -> None:
    assert await applied(Server(job_of()), FRESH_SECONDS + 1, POD, POD) == ["get", "Pod", "Pod"]


@pytest.mark.parametrize("present", [job_of(resourceVersion="9"), job_of(uid="of-another"), None])
async def test_a_job_that_another_operator_has_changed_meanwhile_gets_no_pods(present: dict[str, Any] | None) -> None:
    server = Server(present)
    with pytest.raises(JobChanged):
        await applied(server, FRESH_SECONDS + 1, SERVICE, POD)
    assert server.done == ["Service", "get"]


async def test_a_status_that_could_be_written_says_that_the_job_is_the_same() -> None:
    assert await applied(Server(None), FRESH_SECONDS + 1, STATUS, POD) == ["status", "Pod"]
