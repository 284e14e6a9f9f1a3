"""Upgrading CRDs and operator under live jobs: what runs is untouched, what waits goes on.

`previous_release.tar.xz` holds CRDs, chart, API package and operator of the version before restart rules, deadlines and
queues, with one repair: it reads the switch of suspended jobs although it does not know the fields of run policies that
the new CRDs fill in, which arrive before the new operator does. That operator brings jobs into every state; then the
chart's CRDs and the operator are replaced.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline_crds.manifest import KINDS, custom_resource_definition
from tests.operator.job_documents import preference_job
from tests.operator.live_cluster import DEFINITIONS, GROUP, LiveCluster, Namespace, OperatorProcess, eventually
from tests.operator.simulated_kubelet import PodLife

pytestmark = pytest.mark.control_plane

ARCHIVE = Path(__file__).parent / "previous_release.tar.xz"
STATES = {"running": "Running", "waiting": "Starting", "suspended": "Suspended", "backing-off": "Restarting"}


@dataclass
class Upgrade:
    """Jobs that the previous release brought this far, and the operator that took over."""

    namespace: Namespace
    operator: OperatorProcess
    pods: dict[str, dict[str, Any]]
    statuses: dict[str, dict[str, Any]]
    snapshots: dict[str, dict[str, Any]]


def life(pod: dict[str, Any]) -> PodLife:
    job, attempt = (pod["metadata"]["labels"][f"plumbline.dev/{name}"] for name in ("job-name", "attempt"))
    if attempt != "1":
        return PodLife()
    if job == "waiting":
        return PodLife(unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    return PodLife(exit_code=75 if job == "backing-off" else 0 if job == "finished" else None)


def named(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in items}


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgrade]:
    folder = tmp_path_factory.mktemp("previous-release")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    definitions = [yaml.safe_load(file.read_text()) for file in sorted((folder / "crds").glob("*.yaml"))]
    cluster = LiveCluster(tmp_path_factory.mktemp("control-plane"), definitions)
    cluster.start()
    try:
        cluster.create_namespace("live")
        cluster.wait_for_service_account("live")
        namespace = Namespace(cluster, "live")
        namespace.pods_do(life)
        flags = ["--namespace", "live", "--progress-interval", "0.5", "--status-interval", "0.3"]
        before = OperatorProcess(cluster.plane.kubeconfig, folder / "log", *flags, source=folder)
        before.start()
        eventually(before.ready, "readiness of the previous operator", 60)
        _bring_jobs_into_every_state(namespace)
        pods, snapshots = named(namespace.items("pods")), named(namespace.items("configmaps"))
        statuses = {name: namespace.status(name) for name in (*STATES, "finished")}

        for kind in KINDS:
            new = custom_resource_definition(kind)
            path = f"{DEFINITIONS}/{new['metadata']['name']}"
            version = cluster.api.get(path)["metadata"]["resourceVersion"]
            new["metadata"]["resourceVersion"] = version
            cluster.api.request("PUT", path, new)
        assert before.stop() == 0, before.log()[-4000:]
        after = OperatorProcess(cluster.plane.kubeconfig, folder / "log-after", *flags)
        after.start()
        eventually(after.ready, "readiness of the new operator", 60)
        eventually(lambda: _settled(after) >= len(statuses), "a look at every job")
        yield Upgrade(namespace, after, pods, statuses, snapshots)
        assert after.stop() == 0, after.log()[-4000:]
    finally:
        cluster.stop()


def _bring_jobs_into_every_state(namespace: Namespace) -> None:
    slow = {"backoff": {"initialSeconds": 20, "maxSeconds": 20}}
    for name in ("running", "waiting", "suspended", "finished"):
        namespace.create(preference_job(name, replicas=2 if name == "running" else 1))
    namespace.create(preference_job("backing-off", run_policy=slow))
    namespace.wait_phase("suspended", "Running")
    namespace.patch("suspended", {"spec": {"runPolicy": {"suspend": True}}})
    for name, phase in (STATES | {"finished": "Complete"}).items():
        namespace.wait_phase(name, phase)
    namespace.wait_condition("waiting", "PodsReady", "Unschedulable")
    eventually(lambda: "services/finished-1" not in namespace.children("finished"), "removal of the Service")


def _settled(operator: OperatorProcess) -> float:
    lines = operator.get(operator.metrics_port, "/metrics").splitlines()
    name = 'plumbline_operator_reconcile_total{kind="PreferenceJob",result="settled"}'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_pods_are_what_they_were(upgrade: Upgrade) -> None:
    now = named(upgrade.namespace.items("pods"))
    for name, before in upgrade.pods.items():
        if name.startswith("backing-off"):
            continue  # its next attempt may have begun by now
        assert now[name]["metadata"]["uid"] == before["metadata"]["uid"], f"{name} was made anew"
        assert "deletionTimestamp" not in now[name]["metadata"]
        assert now[name]["spec"] == before["spec"]
        assert now[name]["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"], "nobody wrote to it"


def test_snapshots_and_attempts_are_what_they_were(upgrade: Upgrade) -> None:
    now = named(upgrade.namespace.items("configmaps"))
    for name, before in upgrade.snapshots.items():
        assert now[name] == before
    for name, before in upgrade.statuses.items():
        if name == "backing-off":
            continue
        status = upgrade.namespace.status(name)
        kept = ("phase", "attempt", "restarts", "failures", "snapshot", "startTime", "lastFailure")
        assert {key: status.get(key) for key in kept} == {key: before.get(key) for key in kept}
        for attempt, earlier in zip(status["attempts"], before["attempts"], strict=True):
            assert {key: attempt.get(key) for key in earlier} == earlier, "a release may add to it, and change nothing"


def test_a_running_job_tells_of_no_transition(upgrade: Upgrade) -> None:
    before = {condition["type"]: condition for condition in upgrade.statuses["running"]["conditions"]}
    now = {condition["type"]: condition for condition in upgrade.namespace.status("running")["conditions"]}
    assert {type_: now[type_] for type_ in before} == before


def test_a_job_in_backoff_starts_when_it_would_have(upgrade: Upgrade) -> None:
    status = upgrade.namespace.wait_phase("backing-off", "Complete", timeout=40)
    assert (status["attempt"], status["failures"]) == (2, 1)
    assert status["attempts"][1]["startTime"] >= upgrade.statuses["backing-off"]["nextAttemptTime"]


def test_next_attempts_need_no_runtime_and_get_what_is_new(upgrade: Upgrade) -> None:
    """The runtime is edited and deleted under a suspended job; its snapshot of the previous release is enough."""
    namespace = upgrade.namespace
    runtime = f"{GROUP}/clustertrainerruntimes/torch-cpu"
    namespace.api.patch(runtime, {"spec": {"image": "registry.example/trainer:2"}})
    namespace.api.request("DELETE", runtime)
    namespace.patch("suspended", {"spec": {"runPolicy": {"suspend": False, "nodeLostTimeoutSeconds": 7}}})
    status = namespace.wait_phase("suspended", "Complete")
    assert (status["attempt"], status["snapshot"]) == (2, upgrade.statuses["suspended"]["snapshot"])
    pod = named(namespace.items("pods"))["suspended-trainer-2-0"]
    assert pod["spec"]["containers"][0]["image"] == "registry.example/trainer:1"


def test_a_running_job_can_be_suspended_and_finished_by_the_new_operator(upgrade: Upgrade) -> None:
    namespace = upgrade.namespace
    namespace.patch("running", {"spec": {"runPolicy": {"suspend": True}}})
    namespace.wait_phase("running", "Suspended")
    namespace.patch("running", {"spec": {"runPolicy": {"suspend": False}}})
    assert namespace.wait_phase("running", "Complete")["attempt"] == 2
