"""The operator may do what docs/operations.md lists, and nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charts.tools import kubectl
from cluster.control_plane import ControlPlane

CHART = Path(__file__).resolve().parents[2] / "charts" / "plumbline"
Documents = list[dict[str, Any]]
Render = Callable[..., Documents]
RELEASE_NAMESPACE = "plumbline-system"
WATCHED, OTHER = "team-a", "team-b"
OPERATOR = f"system:serviceaccount:{RELEASE_NAMESPACE}:plumbline-operator"
CONFINED = f"system:serviceaccount:{RELEASE_NAMESPACE}:confined-operator"
JOB_POD = f"system:serviceaccount:{WATCHED}:default"


def roles(rendered: Documents) -> Documents:
    return [document for document in rendered if document["kind"] in ("Role", "ClusterRole")]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": [WATCHED, OTHER]}])
def test_no_rule_has_a_wildcard_or_reaches_secrets(render: Render, values: dict[str, Any]) -> None:
    found = [rule for role in roles(render(values)) for rule in role["rules"]]
    assert found
    for rule in found:
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        assert not {"secrets", "pods/exec", "pods/attach", "serviceaccounts/token"} & set(rule["resources"])
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_the_operator_is_told_the_namespaces_it_has_roles_in(render: Render) -> None:
    rendered = render({"watchNamespaces": [WATCHED, OTHER]})
    (deployment,) = [document for document in rendered if document["kind"] == "Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == [f"--namespace={WATCHED}", f"--namespace={OTHER}"]
    bindings = [document["metadata"] for document in rendered if document["kind"] == "RoleBinding"]
    bound = [one["namespace"] for one in bindings if not one["name"].endswith("-election")]
    assert bound == [WATCHED, OTHER]


class Cluster:
    """A real API server with the chart installed twice: for all namespaces, and confined to one."""

    def __init__(self, kubeconfig: str) -> None:
        self.environment = dict(os.environ, KUBECONFIG=kubeconfig)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, text=True, capture_output=True, check=False)

    def do(self, *command: str) -> str:
        result = self.run(*command)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def allows(self, who: str, verb: str, resource: str, namespace: str = WATCHED) -> bool:
        """Ask the API server; resource may be `resource.group/subresource`."""
        plain, _, subresource = resource.partition("/")
        command = [kubectl(), "auth", "can-i", verb, plain, "--as", who, "--namespace", namespace]
        answer = self.run(*command, *([f"--subresource={subresource}"] if subresource else []))
        assert answer.stdout.strip() in ("yes", "no"), answer.stderr
        return answer.stdout.strip() == "yes"

    def list_allowed(self, who: str, namespace: str) -> set[str]:
        """Return what kubectl lists of someone's rights to resources, one line for each."""
        command = [kubectl(), "auth", "can-i", "--list", "--no-headers", "--as", who, "--namespace", namespace]
        lines = {" ".join(line.split()) for line in self.do(*command).splitlines()}
        # Lines without a resource are about addresses such as /healthz; the others that everyone has are questions
        # about one's own rights.
        return {line for line in lines if not line.startswith(("[", "self"))}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, helm_program: str) -> Iterator[Cluster]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        running = Cluster(plane.kubeconfig)
        for namespace in (WATCHED, OTHER):
            running.do(kubectl(), "create", "namespace", namespace)
        install = [helm_program, "install", "--namespace", RELEASE_NAMESPACE, "--create-namespace"]
        running.do(*install, "plumbline", str(CHART))
        confined = ["--set", f"watchNamespaces={{{WATCHED}}}", "--set", "crds.enabled=false"]
        confined += ["--set", "runtimes.torch-cpu=null", "--set", "runtimes.torch-gpu=null"]
        running.do(*install, "confined", str(CHART), *confined)
        yield running


NEEDED = [
    *[(verb, f"{kind}.plumbline.dev") for kind in ("preferencejobs", "rlvrjobs")
      for verb in ("get", "list", "watch", "patch", "delete")],
    *[("patch", f"{kind}.plumbline.dev/status") for kind in ("preferencejobs", "rlvrjobs")],
    *[("update", f"{kind}.plumbline.dev/finalizers") for kind in ("preferencejobs", "rlvrjobs")],
    *[(verb, "trainerruntimes.plumbline.dev") for verb in ("get", "list", "watch")],
    *[(verb, kind) for kind in ("pods", "services") for verb in ("get", "list", "watch", "create", "patch", "delete")],
    *[(verb, "configmaps") for verb in ("get", "list", "watch", "create", "patch")],
    *[(verb, "events") for verb in ("list", "watch", "create")],
    ("get", "pods/log"),
]  # fmt: skip
CLUSTER_WIDE = [
    *[(verb, "clustertrainerruntimes.plumbline.dev") for verb in ("get", "list", "watch")],
    ("get", "nodes"),
    ("list", "nodes"),
]
FORBIDDEN = [
    ("get", "secrets"), ("list", "secrets"), ("create", "secrets"),
    ("create", "pods/exec"), ("create", "pods/attach"), ("create", "pods/portforward"), ("get", "pods/proxy"),
    ("create", "serviceaccounts/token"), ("create", "serviceaccounts"),
    ("delete", "nodes"), ("patch", "nodes"), ("delete", "namespaces"), ("create", "namespaces"),
    ("delete", "configmaps"), ("deletecollection", "pods"), ("delete", "persistentvolumeclaims"),
    ("create", "deployments.apps"), ("create", "jobs.batch"),
    ("create", "preferencejobs.plumbline.dev"), ("deletecollection", "preferencejobs.plumbline.dev"),
    ("update", "rlvrjobs.plumbline.dev"), ("create", "trainerruntimes.plumbline.dev"),
    ("create", "clustertrainerruntimes.plumbline.dev"), ("delete", "customresourcedefinitions.apiextensions.k8s.io"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"), ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("patch", "events"), ("impersonate", "users"), ("*", "*"),
]  # fmt: skip


@pytest.mark.control_plane
class TestInACluster:
    def test_the_operator_may_do_what_it_needs(self, cluster: Cluster) -> None:
        refused = [one for one in NEEDED + CLUSTER_WIDE if not cluster.allows(OPERATOR, *one)]
        assert refused == []

    def test_the_operator_may_do_nothing_else(self, cluster: Cluster) -> None:
        allowed = [one for one in FORBIDDEN if cluster.allows(OPERATOR, *one)]
        assert allowed == []

    def test_a_confined_operator_has_its_namespaces_only(self, cluster: Cluster) -> None:
        rights = cluster.list_allowed(OPERATOR, WATCHED)
        assert any(line.startswith("pods ") for line in rights)
        assert cluster.list_allowed(CONFINED, WATCHED) == rights
        elsewhere = {line.partition(" ")[0] for line in cluster.list_allowed(CONFINED, OTHER)}
        assert elsewhere == {"clustertrainerruntimes.plumbline.dev", "nodes"}

    def test_job_pods_may_do_nothing(self, cluster: Cluster) -> None:
        assert cluster.list_allowed(JOB_POD, WATCHED) == set()
        assert not any(cluster.allows(JOB_POD, *one) for one in (("get", "secrets"), ("list", "pods")))

    def test_whoever_edits_a_namespace_may_run_jobs_and_read_runtimes(self, cluster: Cluster) -> None:
        for role in ("view", "edit", "admin"):
            cluster.do(
                kubectl(), "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}", "-n", WATCHED
            )
        jobs, runtimes = "preferencejobs.plumbline.dev", "trainerruntimes.plumbline.dev"
        for editor in ("edit", "admin"):
            assert cluster.allows(editor, "create", jobs)
            assert cluster.allows(editor, "delete", "rlvrjobs.plumbline.dev")
            assert cluster.allows(editor, "list", runtimes)
            assert not cluster.allows(editor, "create", runtimes)
            assert not cluster.allows(editor, "create", jobs, namespace=OTHER)
        assert cluster.allows("view", "list", jobs)
        assert not cluster.allows("view", "create", jobs)

    def test_uninstalling_keeps_crds_and_what_is_stored_in_them(self, cluster: Cluster, helm_program: str) -> None:
        before = cluster.do(kubectl(), "get", "clustertrainerruntimes", "-o", "name").split()
        assert before == [f"clustertrainerruntime.plumbline.dev/torch-{kind}" for kind in ("cpu", "gpu")]
        cluster.do(helm_program, "uninstall", "plumbline", "--namespace", RELEASE_NAMESPACE)
        assert cluster.do(kubectl(), "get", "clustertrainerruntimes", "-o", "name").split() == before
        assert not cluster.allows(OPERATOR, "list", "pods")
        cluster.do(helm_program, "install", "--namespace", RELEASE_NAMESPACE, "plumbline", str(CHART))
        assert cluster.allows(OPERATOR, "list", "pods")


def test_the_list_in_the_manual_is_the_list_of_the_chart(render: Render) -> None:
    """docs/operations.md says that the chart grants exactly its table."""
    manual = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    granted = {
        (group or "core", resource, verb)
        for role in roles(render())
        if role["metadata"]["name"] == "plumbline-operator"
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    listed = set()
    for line in manual.partition("## Permissions")[2].splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0] in ("core", "plumbline.dev") and "--status-via=proxy" not in cells[3]:
            listed |= {(cells[0], name, verb) for name in cells[1].split(", ") for verb in cells[2].split(", ")}
    assert granted == listed
