"""The control plane as a library: real API, admission and controllers, no root."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import crd_server
from cluster.api import ApiError
from cluster.control_plane import ControlPlane
from cluster.crd_server import ModernCRDServer
from cluster.processes import marked_processes

pytestmark = pytest.mark.control_plane

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as control_plane:
        yield control_plane


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "data": {}}


def test_owned_objects_are_collected(plane: ControlPlane) -> None:
    api = plane.api()
    api.create(CONFIG_MAPS, config_map("owner"))
    uid = api.get(f"{CONFIG_MAPS}/owner")["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    api.create(CONFIG_MAPS, config_map("owned", ownerReferences=[reference]))
    api.delete(f"{CONFIG_MAPS}/owner")
    deadline = time.monotonic() + 30
    while api.exists(f"{CONFIG_MAPS}/owned"):
        assert time.monotonic() < deadline, "the garbage collector did not remove it"
        time.sleep(0.2)


def test_quota_is_enforced(plane: ControlPlane) -> None:
    api = plane.api()
    api.create("/api/v1/namespaces", {"metadata": {"name": "small"}})
    quotas = "/api/v1/namespaces/small/resourcequotas"
    api.create(quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"secrets": "0"}}})
    deadline = time.monotonic() + 30
    while "hard" not in api.get(f"{quotas}/none").get("status", {}):
        assert time.monotonic() < deadline, "the quota controller did not see it"
        time.sleep(0.2)
    with pytest.raises(ApiError) as refused:
        api.create("/api/v1/namespaces/small/secrets", {"metadata": {"name": "one"}})
    assert refused.value.code == 403


def test_two_run_side_by_side_and_leave_nothing(plane: ControlPlane, tmp_path: Path) -> None:
    other = ControlPlane(tmp_path, controller_manager=False)
    with other:
        assert other.server != plane.server
        other.api().create(CONFIG_MAPS, config_map("only-here"))
        assert not plane.api().exists(f"{CONFIG_MAPS}/only-here")
    assert marked_processes(tmp_path) == []


@pytest.mark.skipif(crd_server.cached() is None, reason="the CRD server is not built")
def test_newer_crd_server_evaluates_rules(plane: ControlPlane) -> None:
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "ranges.example.com"},
        "spec": {
            "group": "example.com",
            "names": {"kind": "Range", "plural": "ranges"},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "low": {"type": "integer"},
                                "high": {"type": "integer"},
                            },
                            "x-kubernetes-validations": [{"rule": "self.low <= self.high", "message": "upside down"}],
                        }
                    },
                }
            ],
        },
    }
    api = plane.api()
    with ModernCRDServer(plane) as server:
        api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        server.serve("example.com", "v1")
        path = "/apis/example.com/v1/namespaces/default/ranges"
        body = {"apiVersion": "example.com/v1", "kind": "Range", "metadata": {"name": "good"}}
        assert api.create(path, {**body, "low": 1, "high": 2})
        with pytest.raises(ApiError, match="upside down"):
            api.create(path, {**body, "metadata": {"name": "bad"}, "low": 3, "high": 2})
