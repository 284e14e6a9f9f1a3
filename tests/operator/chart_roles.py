"""The operator's identity and rights in a cluster, exactly as the chart gives them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from charts.tools import helm
from cluster.api import ApiError
from cluster.control_plane import ControlPlane

CHART = Path(__file__).resolve().parents[2] / "charts" / "plumbline"
SYSTEM_NAMESPACE = "plumbline-system"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PLURALS = {
    "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles", "RoleBinding": "rolebindings",
}  # fmt: skip


def grant_chart_roles(plane: ControlPlane, release: str = "plumbline", values: dict[str, Any] | None = None) -> str:
    """Creates the chart's roles and bindings; returns the kubeconfig of the operator's service account.

    Its certificate carries the account's name, so that the API server asks the same rules as for its token.
    """
    command = [helm(), "template", release, str(CHART), "--namespace", SYSTEM_NAMESPACE, "--kube-version", "1.20.2"]
    done = subprocess.run(
        [*command, "--values", "-"], input=json.dumps(values or {}), text=True, capture_output=True, check=True
    )
    _create(
        plane, "/api/v1/namespaces", {"metadata": {"name": SYSTEM_NAMESPACE}, "kind": "Namespace", "apiVersion": "v1"}
    )
    for document in yaml.load_all(done.stdout, yaml.CSafeLoader):
        if document and document["kind"] in PLURALS:
            namespace = document["metadata"].get("namespace")
            scope = f"/namespaces/{namespace}" if namespace else ""
            _create(plane, f"{RBAC}{scope}/{PLURALS[document['kind']]}", document)
    account = f"{release}-operator"
    return plane.client_kubeconfig(account, f"/CN=system:serviceaccount:{SYSTEM_NAMESPACE}:{account}")


def _create(plane: ControlPlane, path: str, document: dict[str, Any]) -> None:
    try:
        plane.api().create(path, document)
    except ApiError as error:
        if error.code != 409:
            raise
