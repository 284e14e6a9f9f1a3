"""How Prometheus and Grafana find what the chart installs, with and without the Prometheus operator."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.dashboards.queries import dashboards
from cluster.prometheus import programs
from plumbline_api.contract import PORT
from tests.operator.simulated_world import World

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "charts" / "plumbline" / "files"
STORIES = Path(__file__).with_name("alerts.test.yaml")
SERVED = [f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")]

Documents = list[dict[str, Any]]
Render = Callable[..., Documents]


def of_kind(rendered: Documents, kind: str) -> Documents:
    return [document for document in rendered if document["kind"] == kind]


def scrape_annotations(port: int) -> dict[str, str]:
    return {"prometheus.io/scrape": "true", "prometheus.io/path": "/metrics", "prometheus.io/port": str(port)}


def trainer_pod() -> dict[str, Any]:
    """A pod of a job as the operator makes it."""
    made: list[dict[str, Any]] = []

    class Watched(World):
        def _apply(self, manifest: dict[str, Any]) -> None:
            if manifest["kind"] == "Pod":
                made.append(manifest)
            super()._apply(manifest)

    Watched().settle()
    return made[0]


def promtool(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([programs()["promtool"], *arguments], cwd=cwd, text=True, capture_output=True, check=False)


def test_without_the_prometheus_operator_there_are_annotations_and_none_of_its_kinds(render: Render) -> None:
    rendered = render()
    assert not [document for document in rendered if document["apiVersion"].startswith("monitoring.coreos.com")]
    (service,) = of_kind(rendered, "Service")
    assert service["metadata"]["annotations"] == scrape_annotations(8080)
    for runtime in of_kind(rendered, "ClusterTrainerRuntime"):
        assert runtime["spec"]["podAnnotations"] == scrape_annotations(PORT)


def test_annotations_of_a_runtime_come_before_ours(render: Render) -> None:
    own = {"prometheus.io/scrape": "false", "team": "ml"}
    values = {"runtimes": {"torch-cpu": {"spec": {"podAnnotations": own}}}}
    runtimes = {one["metadata"]["name"]: one["spec"] for one in of_kind(render(values), "ClusterTrainerRuntime")}
    assert runtimes["torch-cpu"]["podAnnotations"] == scrape_annotations(PORT) | own
    assert runtimes["torch-gpu"]["podAnnotations"] == scrape_annotations(PORT)


def test_annotations_can_be_switched_off(render: Render) -> None:
    rendered = render({"metrics": {"scrapeAnnotations": False}})
    assert "annotations" not in of_kind(rendered, "Service")[0]["metadata"]
    assert all("podAnnotations" not in one["spec"] for one in of_kind(rendered, "ClusterTrainerRuntime"))


def test_with_the_prometheus_operator_monitors_select_what_exists_and_nothing_is_annotated(render: Render) -> None:
    labels = {"metrics": {"monitors": {"labels": {"release": "stack"}}, "rules": {"labels": {"release": "stack"}}}}
    rendered = render(labels, served=SERVED)
    (service,), (monitor,) = of_kind(rendered, "Service"), of_kind(rendered, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    (pods,) = of_kind(rendered, "PodMonitor")
    pod = trainer_pod()
    assert pods["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert ports[pods["spec"]["podMetricsEndpoints"][0]["port"]] == PORT
    assert pods["spec"]["namespaceSelector"] == {"any": True}
    for document in (monitor, pods, *of_kind(rendered, "PrometheusRule")):
        assert document["metadata"]["labels"]["release"] == "stack"
    assert "annotations" not in service["metadata"]
    assert all("podAnnotations" not in one["spec"] for one in of_kind(rendered, "ClusterTrainerRuntime"))


def test_pods_are_looked_for_where_jobs_are_run(render: Render) -> None:
    (pods,) = of_kind(render({"watchNamespaces": ["team-a"]}, served=SERVED), "PodMonitor")
    assert pods["spec"]["namespaceSelector"] == {"matchNames": ["team-a"]}


def test_each_kind_is_made_only_where_it_is_served_or_asked_for(render: Render) -> None:
    def monitoring(rendered: Documents) -> list[str]:
        return sorted(one["kind"] for one in rendered if one["apiVersion"] == "monitoring.coreos.com/v1")

    assert monitoring(render(served=SERVED[:1])) == ["ServiceMonitor"]
    assert monitoring(render({"metrics": {"monitors": {"enabled": False}}}, served=SERVED)) == ["PrometheusRule"]
    assert monitoring(render({"metrics": {"rules": {"enabled": False}}}, served=SERVED)) == [
        "PodMonitor",
        "ServiceMonitor",
    ]
    asked = {"metrics": {"monitors": {"enabled": True}, "rules": {"enabled": True}}}
    assert monitoring(render(asked)) == ["PodMonitor", "PrometheusRule", "ServiceMonitor"]


def test_the_prometheus_rule_holds_the_rules_of_the_file_but_those_left_out(
    render: Render, template: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    groups = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]
    (rule,) = of_kind(render(served=SERVED), "PrometheusRule")
    assert rule["spec"]["groups"] == groups
    disabled = {"metrics": {"rules": {"disabled": ["PlumblineJobFailed"]}}}
    (rule,) = of_kind(render(disabled, served=SERVED), "PrometheusRule")
    names = [one["alert"] for group in rule["spec"]["groups"] for one in group["rules"]]
    assert names == [one["alert"] for group in groups for one in group["rules"]][1:]
    refused = template({"metrics": {"rules": {"disabled": ["PlumblineNoSuchAlert"]}}}, served=SERVED)
    assert refused.returncode != 0
    assert "there is no alert PlumblineNoSuchAlert" in refused.stderr


def test_a_prometheus_without_the_operator_gets_the_same_files(render: Render) -> None:
    assert not [one for one in of_kind(render(), "ConfigMap") if one["metadata"]["name"] == "plumbline-prometheus"]
    rendered = render({"metrics": {"prometheusFiles": {"enabled": True}}})
    (files,) = [one for one in of_kind(rendered, "ConfigMap") if one["metadata"]["name"] == "plumbline-prometheus"]
    assert {name: yaml.safe_load(text) for name, text in files["data"].items()} == {
        name: yaml.safe_load((FILES / name).read_text()) for name in ("scrape.yaml", "rules.yaml")
    }


def test_prometheus_reads_the_scrape_configuration(tmp_path: Path) -> None:
    checked = promtool("check", "config", "--syntax-only", FILES / "scrape.yaml")
    assert checked.returncode == 0, checked.stderr


def test_dashboards_are_config_maps_that_the_sidecar_finds(render: Render) -> None:
    def found(values: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        maps = [one for one in of_kind(render(values), "ConfigMap") if "-dashboard-" in one["metadata"]["name"]]
        return {one["metadata"]["name"].removeprefix("plumbline-dashboard-"): one for one in maps}

    maps = found()
    assert set(maps) == {"fleet", "preference-job", "rlvr-job", "operator"}
    for name, board in dashboards().items():
        assert maps[name]["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert maps[name]["metadata"]["annotations"] == {"grafana_folder": "Plumbline"}
        assert json.loads(maps[name]["data"][f"plumbline-{name}.json"]) == board
        assert maps[name]["metadata"]["namespace"] == "plumbline-system"
    elsewhere = found({"dashboards": {"namespace": "monitoring", "labels": {"mine": "yes"}}})
    assert {one["metadata"]["namespace"] for one in elsewhere.values()} == {"monitoring"}
    assert all(one["metadata"]["labels"]["mine"] == "yes" for one in elsewhere.values())
    assert found({"dashboards": {"enabled": False}}) == {}


def test_rules_set_off_in_the_stories_that_they_are_for() -> None:
    tested = promtool("test", "rules", STORIES.name, cwd=STORIES.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_story_and_a_section_in_the_documentation() -> None:
    groups = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    expected = {
        case["alertname"]
        for story in yaml.safe_load(STORIES.read_text())["tests"]
        for case in story["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert expected == alerts
    text = (ROOT / "docs" / "observability.md").read_text()
    assert {alert for alert in alerts if f"`{alert}`" in text} == alerts


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"metrics": {"monitors": {"enabled": "maybe"}}}, "enabled"),
        ({"metrics": {"monitors": {"interval": "often"}}}, "interval"),
        ({"metrics": {"rules": {"disabled": ["NotOurs"]}}}, "disabled"),
        ({"dashboards": {"folder": "x"}}, "folder"),
    ],
)
def test_wrong_values_are_refused(
    template: Callable[..., subprocess.CompletedProcess[str]], values: dict[str, Any], said: str
) -> None:
    result = template(values)
    assert result.returncode != 0
    assert said in result.stderr
