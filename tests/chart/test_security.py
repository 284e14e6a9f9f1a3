"""What the chart allows: network, pods, and an install that makes nothing of cluster scope."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from plumbline_api.contract import PORT, RENDEZVOUS_PORT
from plumbline_api.runtime import TrainerRuntime
from plumbline_api.scheduling import Scheduling
from plumbline_operator.children import Placement, pod_manifest
from plumbline_operator.decide.acceptance import accept
from plumbline_operator.model import Observed
from plumbline_operator.snapshot import read_snapshot
from tests.chart.network_policies import End, allows
from tests.operator.job_documents import RUNTIME, preference_job, stored
from tests.operator.pod_security import violations

Documents = list[dict[str, Any]]
Render = Callable[..., Documents]
NAMESPACED = {"watchNamespaces": ["team-a", "team-b"], "rbac": {"clusterScope": False}}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
METRICS, HEALTH, EPHEMERAL = 8080, 8081, 41234


def of_kind(rendered: Documents, kind: str) -> Documents:
    return [document for document in rendered if document["kind"] == kind]


def end(namespace: str, labels: dict[str, str], **ports: int) -> End:
    return End(namespace, labels, "10.1.2.3", {"kubernetes.io/metadata.name": namespace}, ports)


def operator_of(rendered: Documents) -> End:
    (deployment,) = of_kind(rendered, "Deployment")
    template = deployment["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    return end("plumbline-system", template["metadata"]["labels"], **ports)


def job_pod(namespace: str, name: str = "tune") -> End:
    """A pod as the operator makes it."""
    job = stored(preference_job(name, namespace))
    snapshot = read_snapshot(accept(Observed(job=job, runtime=RUNTIME)))
    pod = pod_manifest(job, snapshot, Placement(Scheduling()), 1, 0, "10.96.0.7")
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    return end(namespace, pod["metadata"]["labels"], **ports)


INTERNET = End()
MODERN, OLD = "1.30.0", "1.20.2"


@pytest.mark.parametrize("version", [OLD, MODERN])
def test_network_policies_let_through_what_is_needed_and_nothing_else(render: Render, version: str) -> None:
    values = {"watchNamespaces": ["team-a"], "networkPolicy": {"metricsFrom": [PROMETHEUS]}}
    rendered = render(values, version=version)
    policies = of_kind(rendered, "NetworkPolicy")
    operator, trainer, peer = operator_of(rendered), job_pod("team-a"), job_pod("team-a", "other")
    neighbour = end("team-a", {"app": "notebook"})
    prometheus = end("monitoring", {"app": "prometheus"})
    dns = end("kube-system", {"k8s-app": "kube-dns"})
    api_server = End(address="203.0.113.1")
    flows: list[tuple[str, End, End, int, bool]] = [
        ("operator asks a trainer", operator, trainer, PORT, True),
        ("operator asks the API server", operator, api_server, 6443, True),
        ("operator reads a web page", operator, INTERNET, 80, False),
        ("operator reaches another port of a trainer", operator, trainer, RENDEZVOUS_PORT, False),
        ("operator reaches a neighbour of the jobs", operator, neighbour, PORT, False),
        ("Prometheus scrapes the operator", prometheus, operator, METRICS, True),
        ("somebody else scrapes the operator", neighbour, operator, METRICS, False),
        ("the node probes the operator", End(address="10.0.0.1"), operator, HEALTH, True),
        ("a trainer reaches the operator", trainer, operator, METRICS, False),
        ("ranks meet", trainer, peer, RENDEZVOUS_PORT, True),
        ("ranks exchange gradients", trainer, peer, EPHEMERAL, True),
        ("a trainer resolves a name", trainer, dns, 53, True),
        ("a trainer calls the API server", trainer, api_server, 6443, False),
        ("a trainer calls the metadata service of a cloud", trainer, End(address="169.254.169.254"), 80, False),
        ("a trainer reads from the internet", trainer, INTERNET, 443, False),
        ("a trainer reaches a neighbour", trainer, neighbour, 8888, False),
        ("a neighbour asks a trainer", neighbour, trainer, PORT, False),
        ("Prometheus scrapes a trainer", prometheus, trainer, PORT, True),
        ("Prometheus joins the ranks", prometheus, trainer, RENDEZVOUS_PORT, False),
        ("a job of another team asks a trainer", job_pod("team-b"), trainer, PORT, False),
    ]
    wrong = [what for what, source, target, port, right in flows if allows(policies, source, target, port) != right]
    assert wrong == []


def test_dns_is_let_through_by_udp_too(render: Render) -> None:
    policies = of_kind(render({"networkPolicy": {"jobs": {"namespaces": ["team-a"]}}}), "NetworkPolicy")
    cache = End(address="169.254.20.10")
    assert allows(policies, job_pod("team-a"), cache, 53, "UDP")
    assert not allows(policies, job_pod("team-a"), INTERNET, 53, "UDP"), "a name server elsewhere is a way out"


def test_storage_and_judges_are_let_through_where_they_are_named(render: Render) -> None:
    egress = [{"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": [{"port": 443, "protocol": "TCP"}]}]
    values = {"networkPolicy": {"jobs": {"namespaces": ["team-a"], "egress": egress}}}
    policies = of_kind(render(values), "NetworkPolicy")
    assert allows(policies, job_pod("team-a"), INTERNET, 443)
    assert not allows(policies, job_pod("team-a"), INTERNET, 80)
    assert not allows(policies, job_pod("team-a"), End(address="203.0.113.9"), 443)


def test_somebody_who_only_looks_like_the_operator_is_kept_out(render: Render) -> None:
    """Where namespaces carry their name, the operator's labels in another namespace open nothing."""
    rendered = render({"watchNamespaces": ["team-a"]}, version=MODERN)
    policies = of_kind(rendered, "NetworkPolicy")
    assert allows(policies, operator_of(rendered), job_pod("team-a"), PORT)
    assert not allows(policies, end("team-b", operator_of(rendered).labels), job_pod("team-a"), PORT)


def test_the_operator_can_be_told_where_the_api_server_is(render: Render) -> None:
    rendered = render({"networkPolicy": {"apiServer": {"ports": [8443], "cidrs": ["203.0.113.1/32"]}}})
    policies = of_kind(rendered, "NetworkPolicy")
    assert allows(policies, operator_of(rendered), End(address="203.0.113.1"), 8443)
    assert not allows(policies, operator_of(rendered), End(address="203.0.113.2"), 8443)
    assert not allows(policies, operator_of(rendered), End(address="203.0.113.1"), 443)


def test_policies_can_be_left_to_others(render: Render) -> None:
    assert of_kind(render({"networkPolicy": {"enabled": False}, "watchNamespaces": ["a"]}), "NetworkPolicy") == []


def test_every_pod_of_the_chart_meets_the_restricted_standard(render: Render) -> None:
    found = 0
    for document in render():
        template = (
            (document.get("spec") or {}).get("template") if document["kind"] != "CustomResourceDefinition" else {}
        )
        if template:
            found += 1
            assert violations(template) == []
            for container in template["spec"]["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert found


def test_nothing_of_cluster_scope_is_made_without_cluster_scope(render: Render) -> None:
    rendered = render({**NAMESPACED, "crds": {"enabled": False}})
    assert all("namespace" in document["metadata"] for document in rendered)
    assert not {document["kind"] for document in rendered} & {"ClusterRole", "ClusterRoleBinding"}
    (deployment,) = of_kind(rendered, "Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--namespace=team-a", "--namespace=team-b", "--without-cluster-scope"} <= set(arguments)
    runtimes = of_kind(rendered, "TrainerRuntime")
    assert {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in runtimes} == {
        (namespace, f"torch-{kind}") for namespace in ("team-a", "team-b") for kind in ("cpu", "gpu")
    }
    for runtime in runtimes:
        TrainerRuntime.model_validate(runtime)
    for namespace in ("team-a", "team-b"):
        roles = {
            role["metadata"]["name"] for role in of_kind(rendered, "Role") if role["metadata"]["namespace"] == namespace
        }
        assert {"plumbline-operator", "plumbline-view", "plumbline-edit"} <= roles


def test_rights_are_never_wider_than_with_cluster_scope(render: Render) -> None:
    def rights(values: dict[str, Any]) -> set[tuple[str, str, str]]:
        return {
            (group, resource, verb)
            for role in [*of_kind(render(values), "Role"), *of_kind(render(values), "ClusterRole")]
            if role["metadata"]["name"].startswith("plumbline-operator")
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    missing = rights({}) - rights(NAMESPACED)
    assert rights(NAMESPACED) < rights({})
    assert {resource for _, resource, _ in missing} == {"clustertrainerruntimes", "nodes"}


def test_without_cluster_scope_namespaces_have_to_be_named(
    template: Callable[..., CompletedProcess[str]],
) -> None:
    result = template({"rbac": {"clusterScope": False}})
    assert result.returncode != 0
    assert "watchNamespaces" in result.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"rbac": {"clusterscope": False}},
        {"networkPolicy": {"apiServer": {"ports": []}}},
        {"networkPolicy": {"apiServer": {"ports": [0]}}},
        {"networkPolicy": {"apiServer": {"cidrs": ["everywhere"]}}},
        {"networkPolicy": {"metricsFrom": [{}]}},
        {"networkPolicy": {"jobs": {"egress": [{"from": []}]}}},
    ],
)
def test_wrong_values_are_refused(template: Callable[..., CompletedProcess[str]], values: dict[str, Any]) -> None:
    assert template(values).returncode != 0
