"""Fixtures: one control plane and one operator for the session, one namespace for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.operator.live_cluster import LiveCluster, Namespace, OperatorProcess, eventually

NAMESPACES = 96


@pytest.fixture(scope="session")
def live_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    cluster = LiveCluster(tmp_path_factory.mktemp("control-plane"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def namespaces(live_cluster: LiveCluster) -> list[str]:
    """The namespaces that the session's operator serves, made in advance; others are left alone by it."""
    names = [f"test-{number}" for number in range(NAMESPACES)]
    for name in names:
        live_cluster.create_namespace(name)
    for name in names:
        live_cluster.wait_for_service_account(name)
    return names


@pytest.fixture(scope="session")
def operator(
    live_cluster: LiveCluster, namespaces: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator, limited to the prepared namespaces."""
    log = tmp_path_factory.mktemp("operator") / "log"
    scope = [flag for name in namespaces for flag in ("--namespace", name)]
    fast = ["--progress-interval", "0.5", "--status-interval", "0.3"]
    process = OperatorProcess(live_cluster.operator_kubeconfig, log, *scope, *fast)
    process.start()
    eventually(process.ready, "readiness of the operator", 60)
    yield process
    assert process.stop() == 0, process.log()[-4000:]


@pytest.fixture(scope="session")
def unused_namespaces(namespaces: list[str]) -> Iterator[str]:
    return iter(namespaces)


@pytest.fixture
def namespace(live_cluster: LiveCluster, operator: OperatorProcess, unused_namespaces: Iterator[str]) -> Namespace:
    """A namespace of its own for the test, served by the operator."""
    return Namespace(live_cluster, next(unused_namespaces))
