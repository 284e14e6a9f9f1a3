"""Two operators and one lease: the leader is killed in a storm of jobs, or leaves in order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api import ApiError
from tests.operator.forked_operator import ForkedOperator
from tests.operator.job_documents import preference_job
from tests.operator.live_cluster import LiveCluster, Namespace, eventually
from tests.operator.simulated_kubelet import PodLife

pytestmark = pytest.mark.control_plane

JOBS = 30
TAKEOVER_SECONDS = 20


@pytest.fixture
def elected(live_cluster: LiveCluster, namespaces: list[str], request: pytest.FixtureRequest) -> Namespace:
    """A namespace that the session's operator leaves alone."""
    name = request.node.name.replace("_", "-")[:60]
    live_cluster.create_namespace(name)
    live_cluster.wait_for_service_account(name)
    return Namespace(live_cluster, name)


@pytest.fixture
def two_operators(elected: Namespace, tmp_path: Path) -> Iterator[list[ForkedOperator]]:
    """Both watch the namespace, and one of them leads."""
    kubeconfig, lease = elected.cluster.plane.kubeconfig, f"{elected.name}/operator"
    flags = ("--leader-election", lease)
    operators = [ForkedOperator(kubeconfig, tmp_path / f"log-{n}", elected.name, *flags) for n in range(2)]
    for operator in operators:
        operator.start()
    for operator in operators:
        eventually(operator.ready, "readiness of an operator", 60)
    eventually(lambda: holder(elected), "a leader")
    yield operators
    for operator in operators:
        if operator.alive:
            operator.kill()


def holder(namespace: Namespace) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace.name}/leases/operator"
    try:
        lease: dict[str, Any] = namespace.api.get(path)
    except ApiError as error:
        if error.code == 404:
            return ""
        raise
    return str(lease["spec"].get("holderIdentity") or "")


def leader_and_other(namespace: Namespace, operators: list[ForkedOperator]) -> tuple[ForkedOperator, ForkedOperator]:
    first, second = operators
    return (first, second) if f"_{first.pid}_" in holder(namespace) else (second, first)


def test_a_killed_leader_is_replaced_and_nothing_is_done_twice(
    elected: Namespace, two_operators: list[ForkedOperator]
) -> None:
    created: Counter[str] = Counter()

    def life(pod: Any) -> PodLife:
        created[pod["metadata"]["name"]] += 1
        return PodLife(run_seconds=1.0)

    elected.pods_do(life)
    leader, other = leader_and_other(elected, two_operators)
    for number in range(JOBS):
        elected.create(preference_job(f"storm-{number}", replicas=2))
    eventually(lambda: len(created) >= JOBS // 3, "a part of the pods")
    leader.kill()
    killed = time.monotonic()
    assert len(created) < 2 * JOBS, "the leader died in the middle"
    elected.create(preference_job("after"))
    eventually(lambda: created["after-trainer-1-0"], "the other operator's work", TAKEOVER_SECONDS)
    takeover = time.monotonic() - killed
    assert other.alive
    for number in range(JOBS):
        status = elected.wait_phase(f"storm-{number}", "Complete", timeout=60)
        assert (status["attempt"], status["failures"]) == (1, 0)
    expected = {f"storm-{number}-trainer-1-{rank}": 1 for number in range(JOBS) for rank in range(2)}
    assert created == expected | {"after-trainer-1-0": 1}, f"takeover after {takeover:.1f} s"


def test_a_leader_that_leaves_in_order_is_replaced_at_once(
    elected: Namespace, two_operators: list[ForkedOperator]
) -> None:
    leader, other = leader_and_other(elected, two_operators)
    assert leader.stop() == 0
    eventually(lambda: f"_{other.pid}_" in holder(elected), "the other operator's lease", 6)
    elected.create(preference_job())
    elected.wait_phase("tune", "Complete")


def test_only_the_leader_works(elected: Namespace, two_operators: list[ForkedOperator]) -> None:
    leader, other = leader_and_other(elected, two_operators)
    elected.create(preference_job())
    elected.wait_phase("tune", "Complete")
    assert other.alive
    assert leader.alive
    leads = [operator for operator in two_operators if f"_{operator.pid}_" in holder(elected)]
    assert leads == [leader]
    counted = [operator.reconciliations() for operator in (leader, other)]
    assert counted[0] > 0
    assert counted[1] == 0
