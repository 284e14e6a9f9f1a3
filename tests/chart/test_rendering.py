"""What the chart renders to, for an old and for a new Kubernetes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charts.tools import helm
from plumbline_api.runtime import ClusterTrainerRuntime, TrainerRuntimeSpec

CHART = Path(__file__).resolve().parents[2] / "charts" / "plumbline"
Documents = list[dict[str, Any]]
Render = Callable[..., Documents]
VERSIONS = ["1.20.2", "1.37.1"]
# What a Kubernetes 1.20 serves of the kinds that a chart like this one uses.
SERVED_BY_1_20 = {
    "v1", "apps/v1", "rbac.authorization.k8s.io/v1", "networking.k8s.io/v1", "apiextensions.k8s.io/v1",
    "plumbline.dev/v1alpha1",
}  # fmt: skip


def of_kind(rendered: Documents, kind: str) -> Documents:
    return [document for document in rendered if document["kind"] == kind]


def only(rendered: Documents, kind: str) -> dict[str, Any]:
    (found,) = of_kind(rendered, kind)
    return found


def test_lint_finds_nothing_to_warn_of() -> None:
    result = subprocess.run([helm(), "lint", "--strict", str(CHART)], text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_only_api_versions_that_the_oldest_supported_kubernetes_serves(render: Render, version: str) -> None:
    assert {document["apiVersion"] for document in render(version=version)} <= SERVED_BY_1_20


def test_older_kubernetes_is_refused(template: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = template(version="1.19.16")
    assert result.returncode != 0
    assert "1.20.0" in result.stderr


def test_the_operator_meets_the_restricted_pod_security_standard(render: Render) -> None:
    pod = only(render(), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])
    for container in pod["containers"] + pod.get("initContainers", []):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert not any("hostPort" in port for port in container["ports"])
        assert {"requests", "limits"} <= set(container["resources"])


def test_a_single_operator_goes_before_its_successor_comes(render: Render) -> None:
    spec = only(render(), "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def test_service_and_selector_find_the_pod(render: Render) -> None:
    rendered = render({"operator": {"podLabels": {"team": "ml"}}})
    deployment, service = only(rendered, "Deployment")["spec"], only(rendered, "Service")
    labels = deployment["template"]["metadata"]["labels"]
    assert labels["team"] == "ml"
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in deployment["template"]["spec"]["containers"][0]["ports"]}
    assert ports == {"metrics": 8080, "health": 8081}
    assert service["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true", "prometheus.io/path": "/metrics", "prometheus.io/port": "8080",
    }  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_crds_are_those_of_the_api(render: Render, generated_crds: dict[str, dict[str, Any]], version: str) -> None:
    rendered = {crd["metadata"]["name"]: crd for crd in of_kind(render(version=version), "CustomResourceDefinition")}
    assert len(generated_crds) == 4
    for crd in rendered.values():
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    if version == "1.20.2":
        assert "x-kubernetes-validations" not in str(rendered)
        assert rendered == without(generated_crds, "x-kubernetes-validations")
    else:
        assert rendered == generated_crds


def without(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: without(one, key) for name, one in value.items() if name != key}
    return [without(one, key) for one in value] if isinstance(value, list) else value


def test_crds_can_be_left_to_others(render: Render) -> None:
    assert of_kind(render({"crds": {"enabled": False}}), "CustomResourceDefinition") == []


def test_default_runtimes_are_valid(render: Render) -> None:
    runtimes = {runtime["metadata"]["name"]: runtime for runtime in of_kind(render(), "ClusterTrainerRuntime")}
    assert set(runtimes) == {"torch-cpu", "torch-gpu"}
    parsed = {name: ClusterTrainerRuntime.model_validate(document).spec for name, document in runtimes.items()}
    assert parsed["torch-cpu"].image == "plumbline/trainer:0.1.0-cpu"
    assert parsed["torch-cpu"].resources.gpus == 0
    assert parsed["torch-gpu"].image == "plumbline/trainer:0.1.0-cuda"
    assert parsed["torch-gpu"].resources.gpus == 1
    for runtime in runtimes.values():
        assert runtime["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"


def test_every_field_of_a_runtime_can_be_set_in_the_values(render: Render) -> None:
    spec = {
        "imagePullSecrets": ["registry"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "secretKeyRef": {"name": "secret", "key": "b"}}],
        "resources": {"gpus": 8, "gpuResourceName": "amd.com/gpu", "cpu": "64", "memory": "1Ti", "sharedMemory": "8Gi"},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute"}],
        "runtimeClassName": "nvidia",
        "podLabels": {"a": "b"},
        "podAnnotations": {"c": "d"},
        "prices": {"gpuHour": 2.5, "podHour": 0.1},
    }
    chosen = {"torch-cpu": None, "torch-gpu": None, "big": {"enabled": True, "image": "cudaImage", "spec": spec}}
    values = {"runtimes": chosen, "metrics": {"scrapeAnnotations": False}}
    (runtime,) = of_kind(render(values), "ClusterTrainerRuntime")
    assert runtime["spec"].items() >= spec.items()
    ClusterTrainerRuntime.model_validate(runtime)
    fields = {field.alias for field in TrainerRuntimeSpec.model_fields.values()}
    assert fields == set(spec) | {"image", "imagePullPolicy"}


def test_the_images_that_were_built_are_the_images_that_run(render: Render, image_values: dict[str, Any]) -> None:
    rendered = render(image_values)
    container = only(rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    operator, trainer = image_values["operator"]["image"], image_values["trainer"]["image"]
    assert container["image"] == f"localhost:5000/plumbline/operator:{operator['tag']}"
    runtimes = {runtime["metadata"]["name"]: runtime["spec"] for runtime in of_kind(rendered, "ClusterTrainerRuntime")}
    assert runtimes["torch-cpu"]["image"] == f"localhost:5000/plumbline/trainer:{trainer['tag']}"


def test_several_operators_elect_the_one_that_works(render: Render) -> None:
    alone = only(render(), "Deployment")["spec"]
    assert alone["replicas"] == 1
    assert "args" not in alone["template"]["spec"]["containers"][0]
    several = only(render({"operator": {"replicas": 2}}), "Deployment")["spec"]
    assert several["replicas"] == 2
    assert several["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert several["strategy"]["type"] == alone["strategy"]["type"], "a patch of one into the other would be refused"
    (argument,) = several["template"]["spec"]["containers"][0]["args"]
    assert argument == "--leader-election=plumbline-system/plumbline-operator"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"oprator": {}}, "oprator"),
        ({"operator": {"replicas": 0}}, "replicas"),
        ({"operator": {"image": {"pullPolicy": "Sometimes"}}}, "pullPolicy"),
        ({"operator": {"image": {"repository": "plumbline/operator:1"}}}, "repository"),
        ({"operator": {"resources": {"limits": {"memory": "much"}}}}, "memory"),
        ({"watchNamespaces": "team-a"}, "watchNamespaces"),
        ({"watchNamespaces": ["Team A"]}, "watchNamespaces"),
        ({"runtimes": {"torch-cpu": {"image": "operator"}}}, "torch-cpu"),
        ({"runtimes": {"torch-cpu": {"spec": {"gpus": 1}}}}, "gpus"),
        ({"crds": {"enabled": "yes"}}, "crds"),
    ],
)
def test_unknown_and_wrong_values_are_refused(
    template: Callable[..., subprocess.CompletedProcess[str]], values: dict[str, Any], said: str
) -> None:
    result = template(values)
    assert result.returncode != 0
    assert said in result.stderr
