"""The operator as a process: probes, metrics, many jobs at once, two operators at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from plumbline_operator.job_metrics import JOB_LABELS
from tests.operator.forked_operator import ForkedOperator
from tests.operator.job_documents import preference_job
from tests.operator.live_cluster import ROOT, Namespace, OperatorProcess, eventually
from tests.operator.simulated_kubelet import PodLife

pytestmark = pytest.mark.control_plane


def scrape(operator: OperatorProcess) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and sorted labels."""
    text = operator.get(operator.metrics_port, "/metrics")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def running_jobs(operator: OperatorProcess) -> float:
    labels = (("kind", "PreferenceJob"), ("phase", "Running"))
    return scrape(operator)[("plumbline_operator_jobs", labels)]


def test_probes_answer(operator: OperatorProcess) -> None:
    assert operator.get(operator.health_port, "/healthz") == "ok\n"
    assert operator.get(operator.health_port, "/readyz") == "ok\n"


def test_jobs_are_counted_by_phase_and_leave_no_series_behind(namespace: Namespace, operator: OperatorProcess) -> None:
    before = running_jobs(operator)
    namespace.pods_do(lambda _: PodLife(exit_code=None))
    namespace.create(preference_job())
    namespace.wait_phase("tune", "Running")
    eventually(lambda: running_jobs(operator) == before + 1, "the running job in the metrics")
    namespace.delete("tune")
    eventually(lambda: running_jobs(operator) == before, "the job's absence from the metrics")


def test_the_operator_measures_itself(namespace: Namespace, operator: OperatorProcess) -> None:
    namespace.create(preference_job())
    namespace.wait_phase("tune", "Complete")
    samples = scrape(operator)
    names = {name for name, _ in samples}
    assert {
        "plumbline_operator_reconcile_duration_seconds_bucket",
        "plumbline_operator_queue_depth",
        "plumbline_operator_build_info",
    } <= names
    settled = ("plumbline_operator_reconcile_total", (("kind", "PreferenceJob"), ("result", "settled")))
    assert samples[settled] >= 1
    created = (("code", "200"), ("resource", "preferencejobs"), ("verb", "apply_status"))
    assert samples[("plumbline_operator_api_requests_total", created)] >= 1
    watched = {dict(labels)["resource"] for name, labels in samples if name == "plumbline_operator_watch_age_seconds"}
    assert {"preferencejobs", "pods", "configmaps", "services"} <= watched


def test_the_documentation_lists_exactly_what_is_served(namespace: Namespace, operator: OperatorProcess) -> None:
    namespace.create(preference_job())
    namespace.wait_phase("tune", "Complete")
    served = {}
    for family in text_string_to_metric_families(operator.get(operator.metrics_port, "/metrics")):
        if family.name.startswith("plumbline_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            # A histogram's `le` is part of its type.
            served[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    text = (ROOT / "docs" / "metrics.md").read_text()
    section = text[text.index("## Jobs") : text.index("## Trainer")]
    documented = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", section, re.MULTILINE):
        of_all = set(JOB_LABELS) if name.startswith("plumbline_job_") else set()
        documented[name] = (kind, set(re.findall(r"`(\w+)`", labels)) | of_all)
    assert {name: kind for name, (kind, _) in served.items()} == {name: kind for name, (kind, _) in documented.items()}
    for name, (_, labels) in served.items():
        # A family without samples, such as the cost of a job without prices, shows no labels.
        assert labels in (set(), documented[name][1]), name
    shown = {name for name, (_, labels) in served.items() if labels}
    assert {"plumbline_job_phase", "plumbline_job_condition", "plumbline_job_finished_timestamp_seconds"} <= shown


def test_one_job_that_is_stuck_holds_up_no_other(namespace: Namespace) -> None:
    def life(pod):
        # The address of a stuck trainer swallows connections: nobody listens there, and the reports time out.
        return PodLife(exit_code=None) if "stuck" in pod["metadata"]["name"] else PodLife()

    namespace.pods_do(life)
    for number in range(6):
        namespace.create(preference_job(f"stuck-{number}"))
    for number in range(6):
        namespace.wait_phase(f"stuck-{number}", "Running")
    namespace.create(preference_job("quick"))
    namespace.wait_phase("quick", "Complete", timeout=10)


def test_two_operators_at_once_do_no_harm(namespace: Namespace, tmp_path: Path) -> None:
    """As during an upgrade: every write is conditional or idempotent, so the job's life is the same."""
    kubeconfig = namespace.cluster.plane.kubeconfig
    second = ForkedOperator(kubeconfig, tmp_path / "log", namespace.name)
    second.start()
    try:
        eventually(second.ready, "readiness of the second operator", 60)
        for number in range(5):
            namespace.create(preference_job(f"shared-{number}", replicas=2))
        for number in range(5):
            status = namespace.wait_phase(f"shared-{number}", "Complete")
            assert (status["attempt"], status["failures"]) == (1, 0)
        assert len(namespace.items("pods")) == 10
    finally:
        second.kill()
