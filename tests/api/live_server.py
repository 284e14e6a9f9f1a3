"""The manifests on a running API server: install them, submit objects, read its refusals."""

from __future__ import annotations

import json
import time
from typing import Any

from kubernetes import client, config

from tests.api.valid_specs import Document

GROUP, VERSION = "plumbline.dev", "v1alpha1"
NAMESPACE = "default"
_DEADLINE_SECONDS = 60


class LiveServer:
    """Objects of our kinds on one API server."""

    def __init__(self, kubeconfig: str) -> None:
        configuration = client.Configuration()
        config.load_kube_config(kubeconfig, client_configuration=configuration)
        configuration.proxy = None  # the server is on this machine
        self._client = client.ApiClient(configuration)
        self._objects = client.CustomObjectsApi(self._client)
        self._definitions = client.ApiextensionsV1Api(self._client)
        self._plurals: dict[str, tuple[str, bool]] = {}

    def install(self, manifests: list[Document]) -> None:
        """Creates the definitions and returns when each is established. Raises the server's error if it refuses one."""
        for manifest in manifests:
            names, scope = manifest["spec"]["names"], manifest["spec"]["scope"]
            self._plurals[names["kind"]] = (names["plural"], scope == "Namespaced")
            self._definitions.create_custom_resource_definition(manifest)
        for manifest in manifests:
            self._wait_established(manifest["metadata"]["name"])

    def create(self, document: Document, **options: Any) -> Document:
        """Creates an object; `dry_run="All"` only asks whether the server would."""
        plural, namespaced = self._plurals[document["kind"]]
        if namespaced:
            return dict(
                self._objects.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, plural, document, **options)
            )
        return dict(self._objects.create_cluster_custom_object(GROUP, VERSION, plural, document, **options))

    def replace(self, stored: Document, document: Document, **options: Any) -> Document:
        """Replaces a stored object of a namespace."""
        plural, _ = self._plurals[document["kind"]]
        version = stored["metadata"]["resourceVersion"]
        body = {**document, "metadata": {**document["metadata"], "resourceVersion": version}}
        name = document["metadata"]["name"]
        return dict(
            self._objects.replace_namespaced_custom_object(GROUP, VERSION, NAMESPACE, plural, name, body, **options)
        )

    def delete(self, document: Document) -> None:
        """Deletes an object of a namespace."""
        plural, _ = self._plurals[document["kind"]]
        self._objects.delete_namespaced_custom_object(GROUP, VERSION, NAMESPACE, plural, document["metadata"]["name"])

    def write_status(self, document: Document, status: Document) -> None:
        """Merges a status into a stored object through the status subresource."""
        plural, _ = self._plurals[document["kind"]]
        self._objects.patch_namespaced_custom_object_status(
            GROUP, VERSION, NAMESPACE, plural, document["metadata"]["name"], {"status": status}
        )

    def columns(self, document: Document) -> tuple[Document, Document]:
        """What `kubectl get` shows of a stored object, and what only `-o wide` adds: cells by column name."""
        plural, _ = self._plurals[document["kind"]]
        name = document["metadata"]["name"]
        as_table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        table: Any = self._objects.get_namespaced_custom_object(
            GROUP, VERSION, NAMESPACE, plural, name, _headers=as_table
        )
        cells = list(zip(table["columnDefinitions"], table["rows"][0]["cells"], strict=True))
        shown = {column["name"]: cell for column, cell in cells if not column["priority"]}
        return shown, {column["name"]: cell for column, cell in cells if column["priority"]}

    def _wait_established(self, name: str) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while True:
            status = self._definitions.read_custom_resource_definition(name).status
            conditions = {item.type: item for item in (status and status.conditions) or []}
            if "NonStructuralSchema" in conditions:
                raise AssertionError(f"{name} is not structural: {conditions['NonStructuralSchema'].message}")
            if "Established" in conditions and conditions["Established"].status == "True":
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} was not established within {_DEADLINE_SECONDS} s")
            time.sleep(0.1)


def refusal(error: client.ApiException) -> str:
    """What the server says about an object that it refuses."""
    return str(json.loads(error.body)["message"])
