"""A Prometheus with the chart's own configuration finds operator and job pods, and every panel has data."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from charts.dashboards.queries import ONLY_WITH_A_GPU, Answers, PanelQuery, queries
from cluster.paths import kubeconfig_path
from cluster.prometheus import Prometheus
from scripts.chart_prometheus import configuration
from scripts.deployment import Cluster, wait_until
from tests.e2e.conftest import Jobs, Manifest

pytestmark = pytest.mark.e2e

SCRAPE_SECONDS = 1
RUNTIME = "torch-cpu-with-prices"


@pytest.fixture(scope="module")
def priced(installed: Cluster) -> Iterator[str]:
    """The default runtime with prices, so that jobs have a cost."""
    runtime = installed.get("clustertrainerruntime", "torch-cpu")
    runtime["metadata"] = {"name": RUNTIME}
    runtime["spec"]["prices"] = {"podHour": 0.5, "gpuHour": 2.0}
    installed.apply(runtime)
    yield RUNTIME
    installed.kubectl("delete", "clustertrainerruntime", RUNTIME)


@pytest.fixture(scope="module")
def prometheus(installed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        server.start(configuration(kubeconfig_path(), SCRAPE_SECONDS))
        yield server


@pytest.fixture(scope="module")
def seen(prometheus: Prometheus, jobs: Jobs, priced: str, example: Callable[..., Manifest], namespace: str) -> Answers:
    """Two jobs ran to their end and one failed, one after the other: the machine may have two cores."""
    start = time.time()
    common = (
        f"spec.runtimeRef.name={priced}",
        "spec.training.epochs=null",
        "spec.evaluation={everySteps: 20, maxRows: 64}",
        "spec.checkpoint={everySteps: 10}",
    )
    broken = example(
        "dpo", *common, "spec.training.steps=5", "spec.data.train.source.volume.path=data/none.jsonl", rename="broken"
    )
    jobs.create(broken)
    for name, changes in {
        "dpo": ("spec.training.steps=60",),
        "grpo": ("spec.training.steps=24", "spec.kl={loss: {coefficient: 0.01}}"),
    }.items():
        resource = jobs.create(example(name, *common, *changes))
        jobs.wait_for_phase(resource, "Complete", seconds=600)
    wait_until("the last scrape", lambda: len(prometheus.query('plumbline_job_phase{phase="Complete"}')) >= 2, 30)
    variables = {
        "fleet": {"namespace": namespace},
        "preference-job": {"namespace": namespace, "name": "dpo"},
        "rlvr-job": {"namespace": namespace, "name": "grpo"},
    }
    return Answers(prometheus, start, time.time(), variables, "60s")


def test_the_operator_is_found_and_answers(seen: Answers) -> None:
    found = [target for target in seen.prometheus.targets() if target["labels"]["job"] == "plumbline-operator"]
    assert [target["health"] for target in found] == ["up"]
    assert found[0]["labels"]["namespace"] == "plumbline-system"


def test_pods_of_jobs_were_found_with_their_namespace_pod_and_node(seen: Answers, namespace: str) -> None:
    series = seen.prometheus.query_range("plumbline_trainer_step", seen.start, seen.end, 1)
    labels = [one["metric"] for one in series]
    assert {(one["job_kind"], one["job_name"]) for one in labels} == {("PreferenceJob", "dpo"), ("RLVRJob", "grpo")}
    for one in labels:
        assert one["job"] == "plumbline-jobs"
        assert one["namespace"] == one["job_namespace"] == namespace
        assert one["pod"].startswith(one["job_name"] + "-trainer-")
        assert re.fullmatch(r"node\d", one["node"])


@pytest.mark.parametrize("query", queries(), ids=str)
def test_every_query_returns_data(seen: Answers, query: PanelQuery) -> None:
    series = seen.of(query)
    if query.expression.startswith(ONLY_WITH_A_GPU):
        return
    assert series
    labels = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    assert all(labels <= set(one["metric"]) for one in series)


def test_the_failed_job_is_told_by_an_alert(seen: Answers, namespace: str) -> None:
    def firing() -> list[dict[str, Any]]:
        return [
            alert["labels"]
            for alert in seen.prometheus.alerts()
            if alert["labels"]["alertname"] == "PlumblineJobFailed" and alert["labels"]["job_namespace"] == namespace
        ]

    (labels,) = wait_until("the alert", firing, 30)
    assert (labels["job_name"], labels["reason"]) == ("broken", "DataError")


def test_the_series_of_a_deleted_job_vanish(seen: Answers, installed: Cluster, namespace: str) -> None:
    series = f'plumbline_job_phase{{job_namespace="{namespace}",job_name="broken"}}'
    assert seen.prometheus.query(series)
    installed.kubectl("delete", "preferencejob", "broken", "-n", namespace)
    wait_until("no series of the deleted job", lambda: not seen.prometheus.query(series), 30)
