"""Names of children: kept by the streams, corrected by reads; and what a reconciliation reads."""

from __future__ import annotations

from typing import Any

from plumbline_operator.capacity import CapacityReader
from plumbline_operator.child_index import ChildIndex
from plumbline_operator.departed import DepartedPods
from plumbline_operator.log_tails import LogReader
from plumbline_operator.observe import observe
from plumbline_operator.resources import CONFIG_MAPS, PODS, PREFERENCE_JOBS, SERVICES, JobKey, Resource
from tests.operator.job_documents import preference_job, stored

KEY = JobKey("PreferenceJob", "team", "tune")


def child(name: str, job: str | None = "tune", namespace: str = "team", uid: str = "uid-1") -> dict[str, Any]:
    labels = {"plumbline.dev/job-name": job, "plumbline.dev/job-uid": uid, "plumbline.dev/attempt": "1"}
    labels |= {"plumbline.dev/rank": "0", "plumbline.dev/role": "trainer"}
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-of-{name}"}
    if job is not None:
        metadata |= {"labels": labels, "ownerReferences": [{"uid": uid}]}  # type: ignore[dict-item]
    return {"metadata": metadata}


class Server:
    """Objects by path, and which requests were made for them."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[str] = []

    def hold(self, resource: Resource, *documents: dict[str, Any]) -> None:
        for document in documents:
            self.objects[resource.plural, document["metadata"]["name"]] = document

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        self.requests.append(f"get {resource.plural} {name}")
        return self.objects.get((resource.plural, name))

    async def list(self, resource: Resource, namespace: str | None = None, **_: Any) -> list[dict[str, Any]]:
        self.requests.append(f"list {resource.plural} in {namespace}")
        return [document for (plural, _), document in self.objects.items() if plural == resource.plural]


async def observed(server: Server, index: ChildIndex) -> Any:
    api: Any = server
    return await observe(api, KEY, None, DepartedPods(), index, CapacityReader(api), LogReader(api))


def running_job(replicas: int = 1) -> dict[str, Any]:
    job = stored(preference_job(replicas=replicas))
    job["status"] = {"phase": "Running", "attempt": 1, "attempts": [{"number": 1}]}
    return job


def test_names_come_and_go_with_the_streams() -> None:
    index = ChildIndex()
    index.add(PODS, [child("a"), child("b"), child("c", job="other"), child("d", namespace="elsewhere")])
    index.add(CONFIG_MAPS, [child("snapshot")])
    assert index.names(PODS, "team", "tune") == {"a", "b"}
    assert index.names(CONFIG_MAPS, "team", "tune") == frozenset()
    index.remove(PODS, child("a"))
    index.remove(PODS, child("never-seen"))
    index.discard(PODS, "team", "tune", "b")
    assert index.names(PODS, "team", "tune") == frozenset()
    assert index.names(PODS, "elsewhere", "tune") == {"d"}


async def test_a_running_job_is_read_by_name_and_nothing_is_listed() -> None:
    server, index = Server(), ChildIndex()
    server.hold(PREFERENCE_JOBS, running_job())
    server.hold(PODS, child("tune-trainer-1-0"))
    server.hold(SERVICES, child("tune-1"))
    found = await observed(server, index)
    assert [pod.name for pod in found.pods] == ["tune-trainer-1-0"], "known by the name that it must have"
    assert [service.name for service in found.services] == ["tune-1"]
    asked = {"preferencejobs tune", "pods tune-trainer-1-0", "services tune-1", "configmaps tune-snapshot"}
    assert {f"get {name}" for name in asked} <= set(server.requests)
    assert not any(request.startswith(("list pods", "list services")) for request in server.requests)


async def test_a_pod_of_an_earlier_attempt_is_seen_and_one_that_is_gone_is_forgotten() -> None:
    server, index = Server(), ChildIndex()
    server.hold(PREFERENCE_JOBS, running_job())
    server.hold(PODS, child("tune-trainer-1-0"), child("tune-trainer-0-0"))
    index.add(PODS, [child("tune-trainer-0-0"), child("tune-trainer-0-1")])
    found = await observed(server, index)
    assert {pod.name for pod in found.pods} == {"tune-trainer-0-0", "tune-trainer-1-0"}
    assert index.names(PODS, "team", "tune") == {"tune-trainer-0-0"}


async def test_what_somebody_else_has_under_a_name_of_ours_is_foreign() -> None:
    server = Server()
    server.hold(PREFERENCE_JOBS, running_job())
    server.hold(PODS, child("tune-trainer-1-0", job=None))
    server.hold(SERVICES, child("tune-1", uid="uid-of-another-job"))
    found = await observed(server, ChildIndex())
    assert set(found.foreign) == {"Pod tune-trainer-1-0", "Service tune-1"}
    assert found.pods == ()


async def test_of_a_large_gang_a_pod_that_is_gone_is_forgotten() -> None:
    server, index = Server(), ChildIndex()
    server.hold(PREFERENCE_JOBS, running_job(replicas=64))
    server.hold(PODS, child("tune-trainer-1-0"))
    index.add(PODS, [child("tune-trainer-1-0"), child("tune-trainer-0-9")])
    await observed(server, index)
    assert index.names(PODS, "team", "tune") == {"tune-trainer-1-0"}


def test_known_names_that_a_list_does_not_have_are_told_by_job() -> None:
    index = ChildIndex()
    index.add(PODS, [child("a"), child("b"), child("c", job="other"), child("d", namespace="elsewhere")])
    index.add(SERVICES, [child("tune-1")])
    assert index.unlisted(PODS, [child("a"), child("c", job="other")]) == {("team", "tune"), ("elsewhere", "tune")}
    assert index.unlisted(CONFIG_MAPS, []) == set()
    index.forget("team", "tune")
    assert index.unlisted(PODS, [child("c", job="other")]) == {("elsewhere", "tune")}
    assert index.unlisted(SERVICES, []) == set()


async def test_a_large_gang_is_listed() -> None:
    server = Server()
    server.hold(PREFERENCE_JOBS, running_job(replicas=64))
    server.hold(PODS, *(child(f"tune-trainer-1-{rank}") for rank in range(64)))
    found = await observed(server, ChildIndex())
    assert len(found.pods) == 64
    assert "list pods in team" in server.requests
    assert not any(request.startswith("get pods") for request in server.requests)
