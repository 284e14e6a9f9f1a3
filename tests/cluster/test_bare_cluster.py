"""The running cluster: pods on both nodes, volumes, services, limits, a lost node.

Needs root and `python3 -m cluster up`; everything happens in a namespace that is
removed again.
"""

from __future__ import annotations

import os
import shutil
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.api import Api
from cluster.archive_image import BUSYBOX_IMAGE
from cluster.bare import BareCluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)


class Space:
    """A namespace of the cluster under test."""

    def __init__(self, api: Api, name: str) -> None:
        self.api = api
        self.root = f"/api/v1/namespaces/{name}"

    def pod(self, name: str, script: str, **spec: Any) -> None:
        container = {"name": "main", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", script]}
        container |= spec.pop("container", {})
        body = {
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"restartPolicy": "Never", "containers": [container], **spec},
        }
        wait_for(self._has_account, "the service account")
        self.api.create(f"{self.root}/pods", body)

    def _has_account(self) -> bool:
        path = f"{self.root}/serviceaccounts/default"
        return self.api.exists(path) and bool(self.api.get(path).get("secrets"))

    def phase(self, name: str) -> str:
        return str(self.api.get(f"{self.root}/pods/{name}")["status"].get("phase"))

    def log(self, name: str) -> str:
        return self.api.request("GET", f"{self.root}/pods/{name}/log").decode()

    def claim(self, name: str, mode: str) -> dict[str, Any]:
        spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        self.api.create(f"{self.root}/persistentvolumeclaims", {"metadata": {"name": name}, "spec": spec})
        path = f"{self.root}/persistentvolumeclaims/{name}"
        wait_for(lambda: self.api.get(path)["status"].get("phase") == "Bound", "the claim")
        return {"name": "data", "persistentVolumeClaim": {"claimName": name}}


@pytest.fixture(scope="module")
def cluster() -> BareCluster:
    bare = BareCluster()
    if bare.problems():
        pytest.fail("the cluster is not up; start it with `make cluster-up`")
    return bare


@pytest.fixture
def space(cluster: BareCluster) -> Iterator[Space]:
    api, name = cluster.plane.api(), f"test-{uuid.uuid4().hex[:8]}"
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield Space(api, name)
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteMany"])
def test_restricted_pods_share_a_volume_across_nodes(space: Space, mode: str) -> None:
    volume = space.claim("data", mode)
    restricted = {
        "volumes": [volume],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532},
        "container": {
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        },
    }
    space.pod("writer", "echo hello > /data/file", nodeName="node1", **dict(restricted))
    wait_for(lambda: space.phase("writer") == "Succeeded", "the writer")
    space.pod("reader", "cat /data/file", nodeName="node2", **dict(restricted))
    wait_for(lambda: space.phase("reader") == "Succeeded", "the reader")
    assert space.log("reader") == "hello\n"


def test_service_is_reached_from_machine_and_pod(space: Space) -> None:
    space.pod("web", "echo served > /tmp/page; httpd -f -p 8080 -h /tmp", nodeName="node1")
    ports = [{"port": 80, "targetPort": 8080}]
    services = f"{space.root}/services"
    space.api.create(services, {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}})
    address = space.api.get(f"{services}/web")["spec"]["clusterIP"]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def served() -> bool:
        try:
            return bool(direct.open(f"http://{address}/page", timeout=2).read() == b"served\n")
        except OSError:
            return False

    wait_for(served, "the service from the machine")
    space.pod("client", f"wget -qO- http://{address}/page", nodeName="node2")
    wait_for(lambda: space.phase("client") == "Succeeded", "the client")
    assert space.log("client") == "served\n"


def test_memory_limit_kills(space: Space) -> None:
    limits = {"resources": {"limits": {"memory": "32Mi"}}}
    space.pod("greedy", "x=$(yes | head -c 300000000)", container=limits)
    wait_for(lambda: space.phase("greedy") == "Failed", "the pod to fail")
    status = space.api.get(f"{space.root}/pods/greedy")["status"]["containerStatuses"][0]
    assert status["state"]["terminated"]["reason"] == "OOMKilled"


def test_missing_image_is_reported_at_once(space: Space) -> None:
    space.pod("lost", "true", container={"image": "localhost:5000/plumbline/none:1"})

    def waiting() -> str:
        status = space.api.get(f"{space.root}/pods/lost")["status"].get("containerStatuses", [{}])[0]
        return str(status.get("state", {}).get("waiting", {}).get("reason"))

    wait_for(lambda: waiting() in ("ErrImagePull", "ImagePullBackOff"), "the pull error", 15)


def test_image_is_loaded_once(cluster: BareCluster) -> None:
    archive = cluster.directory / "images/busybox.tar"
    name = f"k8s.local/copy:{uuid.uuid4().hex[:8]}"
    node = cluster.nodes[0]
    try:
        assert node.load_image(archive, name)
        assert not node.load_image(archive, name)
        assert not node.load_image(archive)
    finally:
        node.remove_image(name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nsenter") is None, reason="needs nsenter")
def test_node_is_lost_and_comes_back(cluster: BareCluster, space: Space) -> None:
    space.pod("victim", "sleep 600", nodeName="node2", terminationGracePeriodSeconds=1)
    wait_for(lambda: space.phase("victim") == "Running", "the pod")
    cluster.stop_node("node2")
    try:
        path = "/api/v1/nodes/node2"

        def taints() -> set[str]:
            return {taint["effect"] for taint in space.api.get(path)["spec"].get("taints", [])}

        wait_for(lambda: "NoExecute" in taints(), "the taint")
    finally:
        cluster.start_node("node2")
    wait_for(lambda: not taints(), "the taints to go")
