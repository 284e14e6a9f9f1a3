"""The chart's rights, both ways: the operator does its work with exactly them, and every other request is refused.

The session's operator runs with these rights in all other tests against an API server too.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.api import Api
from cluster.control_plane import ControlPlane
from tests.operator.chart_roles import SYSTEM_NAMESPACE, grant_chart_roles
from tests.operator.job_documents import RUNTIME, preference_job
from tests.operator.live_cluster import GROUP, LiveCluster, Namespace, OperatorProcess, condition, eventually

pytestmark = pytest.mark.control_plane

SERVED, OTHER = "served", "other"
READ = ("get", "list", "watch")
GRANTED: dict[str, tuple[str, ...]] = {
    "plumbline.dev/preferencejobs": (*READ, "patch", "delete"),
    "plumbline.dev/rlvrjobs": (*READ, "patch", "delete"),
    "plumbline.dev/preferencejobs/status": ("patch",),
    "plumbline.dev/rlvrjobs/status": ("patch",),
    "plumbline.dev/preferencejobs/finalizers": ("update",),
    "plumbline.dev/rlvrjobs/finalizers": ("update",),
    "plumbline.dev/trainerruntimes": READ,
    "/pods": (*READ, "create", "patch", "delete"),
    "/services": (*READ, "create", "patch", "delete"),
    "/pods/log": ("get",),
    "/configmaps": (*READ, "create", "patch"),
    "/events": ("list", "watch", "create"),
}
"""What the operator may do where it serves, by group/resource: docs/operations.md says what for."""
CLUSTER_WIDE: dict[str, tuple[str, ...]] = {"plumbline.dev/clustertrainerruntimes": READ, "/nodes": ("get", "list")}
EVERYONE = {(f"authorization.k8s.io/selfsubject{what}reviews", "create") for what in ("access", "rules")}
VERBS = (
    *READ,
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
    "approve",
    "*",
)
BESIDES = (
    "/pods/exec", "/pods/attach", "/pods/portforward", "/pods/proxy", "/pods/ephemeralcontainers", "/services/proxy",
    "/nodes/proxy", "/users", "/groups", "/serviceaccounts/token", "plumbline.dev/preferencejobs/finalizers",
    "plumbline.dev/rlvrjobs/finalizers", "policy/podsecuritypolicies", "*/*",
)  # fmt: skip
"""Resources that discovery does not list, or not on this server."""


class Identity:
    """Requests with a client certificate, over one connection."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        pki = plane.authority.directory
        context = ssl.create_default_context(cafile=str(plane.authority.certificate))
        if name:
            context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
        self._connection = http.client.HTTPSConnection(plane.server.removeprefix("https://"), context=context)

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and document of the answer."""
        patch = "application/merge-patch+json"
        headers = {"Content-Type": patch if method == "PATCH" else "application/json"}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else {}

    def may(self, verb: str, resource: str, namespace: str) -> bool:
        """The API server's own answer about `group/resource[/subresource]`."""
        group, plural, *rest = resource.split("/")
        attributes = {"group": group, "resource": plural, "verb": verb, "namespace": namespace}
        if rest:
            attributes["subresource"] = rest[0]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self.request("POST", path, review)[1]["status"]["allowed"])

    def rights(self, resources: list[str], namespace: str) -> set[tuple[str, str]]:
        return {(name, verb) for name in resources for verb in VERBS if self.may(verb, name, namespace)}


def every_resource(api: Api) -> list[str]:
    """Whatever the API server serves, with subresources, and what it does not list."""
    found = {f"/{entry['name']}" for entry in api.get("/api/v1")["resources"]}
    for group in api.get("/apis")["groups"]:
        resources = api.get(f"/apis/{group['preferredVersion']['groupVersion']}")["resources"]
        found |= {f"{group['name']}/{entry['name']}" for entry in resources}
    return sorted(found | set(BESIDES))


def pairs(rights: dict[str, tuple[str, ...]]) -> set[tuple[str, str]]:
    return {(resource, verb) for resource, verbs in rights.items() for verb in verbs}


@pytest.fixture(scope="module")
def confined(live_cluster: LiveCluster) -> Iterator[str]:
    """The kubeconfig of an operator that is installed without cluster scope, for one of two namespaces."""
    for name in (SERVED, OTHER):
        live_cluster.create_namespace(name)
    for name in (SERVED, OTHER):
        live_cluster.wait_for_service_account(name)
    values = {"watchNamespaces": [SERVED], "rbac": {"clusterScope": False}}
    yield grant_chart_roles(live_cluster.plane, "confined", values)


def test_the_operator_may_do_exactly_what_is_listed(live_cluster: LiveCluster) -> None:
    operator = Identity(live_cluster.plane, "plumbline-operator")
    resources = every_resource(live_cluster.api)
    assert len(resources) > 60, "discovery works"
    assert operator.rights(resources, OTHER) == pairs(GRANTED) | pairs(CLUSTER_WIDE) | EVERYONE


def test_a_confined_operator_has_the_same_rights_in_its_namespace_and_none_elsewhere(
    live_cluster: LiveCluster, confined: str
) -> None:
    operator = Identity(live_cluster.plane, "confined-operator")
    resources = every_resource(live_cluster.api)
    assert operator.rights(resources, SERVED) == pairs(GRANTED) | EVERYONE
    assert operator.rights(resources, OTHER) == EVERYONE
    assert operator.rights(resources, "") == EVERYONE, "nor over all namespaces at once"


def test_in_its_own_namespace_the_operator_has_one_lease(live_cluster: LiveCluster) -> None:
    operator = Identity(live_cluster.plane, "plumbline-operator")
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases"
    for name, readable in (("plumbline-operator", True), ("another", False)):
        live_cluster.api.create(leases, lease(name))
        assert _refused(operator, "GET", f"{leases}/{name}") != readable
    assert _refused(operator, "DELETE", f"{leases}/plumbline-operator")
    assert _refused(
        operator, "POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases", lease("plumbline-operator")
    )


def lease(name: str) -> dict[str, Any]:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/test-0/secrets"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/kube-system/secrets/any"),
        ("POST", "/api/v1/namespaces/test-0/pods/any/exec?command=id"),
        ("POST", "/api/v1/namespaces/test-0/serviceaccounts/default/token"),
        ("DELETE", "/api/v1/namespaces/test-0/configmaps/any"),
        ("DELETE", "/api/v1/namespaces/test-0/pods"),
        ("PATCH", "/api/v1/nodes/simulated"),
        ("DELETE", "/api/v1/nodes/simulated"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
        ("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rlvrjobs.plumbline.dev"),
        ("GET", "/metrics"),
        ("GET", "/logs/"),
    ],
)
def test_requests_beyond_its_rights_are_refused(
    live_cluster: LiveCluster, namespaces: list[str], method: str, path: str
) -> None:
    assert _refused(Identity(live_cluster.plane, "plumbline-operator"), method, path)


def _refused(identity: Identity, method: str, path: str, body: Any = None) -> bool:
    return identity.request(method, path, body or ({} if method in ("POST", "PATCH") else None))[0] == 403


def test_a_job_pod_without_token_is_nobody(live_cluster: LiveCluster) -> None:
    """Whoever has no credentials, as a pod of a job, gets nothing but the server's health and version."""
    nobody = Identity(live_cluster.plane, "")
    for path in ("/api/v1/namespaces", "/api/v1/namespaces/test-0/pods", f"{GROUP}/preferencejobs", "/api/v1/secrets"):
        assert nobody.request("GET", path)[0] in (401, 403)
    assert nobody.request("GET", "/version")[0] == 200


def test_a_confined_operator_runs_a_job_from_start_to_end(
    live_cluster: LiveCluster, confined: str, tmp_path: Path
) -> None:
    """Without a ClusterRole: a TrainerRuntime, suspension, time to live, and not one request that is refused."""
    operator = OperatorProcess(confined, tmp_path / "log", "--namespace", SERVED, "--without-cluster-scope")
    namespace, elsewhere = Namespace(live_cluster, SERVED), Namespace(live_cluster, OTHER)
    for name in (SERVED, OTHER):
        runtime = {**RUNTIME, "kind": "TrainerRuntime", "metadata": {"name": "own"}}
        live_cluster.api.create(f"{GROUP}/namespaces/{name}/trainerruntimes", runtime)
    own = {"kind": "TrainerRuntime", "name": "own"}
    operator.start()
    try:
        eventually(operator.ready, "readiness of the operator", 60)
        elsewhere.create(preference_job("left-alone", runtimeRef=own))
        namespace.create(preference_job("done", runtimeRef=own, run_policy={"ttlSecondsAfterFinished": 1}))
        namespace.create(preference_job("held", runtimeRef=own, run_policy={"suspend": True}))
        namespace.create(preference_job("no-runtime"))
        namespace.wait_phase("held", "Suspended")
        eventually(lambda: namespace.job("done") is None, "the deletion of the job that ended")
        accepted = namespace.wait_condition("no-runtime", "Accepted", "RuntimeNotFound")
        assert "ClusterTrainerRuntime" in accepted["message"]
        assert condition(elsewhere.status("left-alone"), "Accepted") is None
        assert elsewhere.children("left-alone") == set()
        assert refused_requests(operator) <= {("get", "clustertrainerruntimes")}
        assert operator.stop() == 0
    finally:
        if operator.alive:
            operator.kill()
    assert '"error"' not in operator.log()


def test_the_operator_of_the_session_was_refused_nothing(namespace: Namespace, operator: OperatorProcess) -> None:
    namespace.create(preference_job())
    namespace.wait_phase("tune", "Complete")
    # Quotas of other tests refuse pods, with the same code.
    assert refused_requests(operator) <= {("apply", "pods")}


def refused_requests(operator: OperatorProcess) -> set[tuple[str, str]]:
    """Verb and resource of the requests that the operator saw refused for lack of rights."""
    text = operator.get(operator.metrics_port, "/metrics")
    return {
        (sample.labels["verb"], sample.labels["resource"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "plumbline_operator_api_requests_total" and sample.labels["code"] in ("401", "403")
    }
