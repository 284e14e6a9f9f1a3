"""kill -9 of the operator at every write of one job's life loses nothing and doubles nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import free_port
from tests.operator.forked_operator import ForkedOperator
from tests.operator.job_documents import preference_job
from tests.operator.killing_proxy import KillingProxy
from tests.operator.live_cluster import LiveCluster, Namespace, eventually
from tests.operator.simulated_kubelet import PodLife

pytestmark = [pytest.mark.control_plane, pytest.mark.slow]


RULES = [{"match": {"exitCodes": [70]}, "action": "Suspend"}]


@pytest.fixture
def unserved(live_cluster: LiveCluster, namespaces: list[str]) -> Iterator[Namespace]:
    """A namespace that the session's operator leaves alone."""
    live_cluster.create_namespace("killed")
    live_cluster.wait_for_service_account("killed")
    yield Namespace(live_cluster, "killed")


def test_an_operator_that_dies_around_every_write_completes_the_job(unserved: Namespace, tmp_path: Path) -> None:
    created: Counter[str] = Counter()
    codes = {"1": 75, "2": 70}

    def life(pod):
        created[pod["metadata"]["name"]] += 1
        return PodLife(exit_code=codes.get(pod["metadata"]["labels"]["plumbline.dev/attempt"], 0))

    unserved.pods_do(life)
    kubeconfig = tmp_path / "kubeconfig"
    operator: ForkedOperator
    proxy = KillingProxy(unserved.cluster.plane, free_port(), lambda: operator.kill())
    kubeconfig.write_text(proxy.kubeconfig())
    proxy.start()
    operator = ForkedOperator(str(kubeconfig), tmp_path / "log", unserved.name)
    operator.start()
    try:
        unserved.create(preference_job(run_policy={"restartRules": RULES}))

        def done() -> bool:
            if proxy.died.is_set():
                proxy.died.clear()
                operator.start()
                return False
            phase = unserved.status("tune").get("phase")
            if phase == "Suspended":
                unserved.patch("tune", {"spec": {"runPolicy": {"suspend": False}}})
            return phase == "Complete" and not unserved.items("services")

        eventually(done, "completion of the job", 500)
    finally:
        if operator.alive:
            operator.kill()
        proxy.stop()

    status = unserved.status("tune")
    assert proxy.kills >= 2 * 20, proxy.writes
    assert [(entry["number"], entry["reason"]) for entry in status["attempts"]] == [
        (1, "InfrastructureError"),
        (2, "TrainerBug"),
        (3, "Completed"),
    ]
    assert status["failures"] == 1, "a failure is counted once, however often its record was written"
    assert created == {f"tune-trainer-{attempt}-0": 1 for attempt in range(1, 4)}, "every pod was made exactly once"
    assert unserved.children("tune") == {"pods/tune-trainer-3-0", "configmaps/tune-snapshot"}
    assert unserved.job("tune")["spec"]["runPolicy"]["suspend"] is False
    assert [reason for reason, _ in unserved.events("tune")].count("SuspendedByRule") == 1
    told = Counter(unserved.events("tune"))
    assert max(told.values()) == 1, "no event is told twice"
