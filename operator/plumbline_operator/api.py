"""Requests to the API server: plain JSON objects over the transport of `kubernetes.aio`.

The generated model classes are left out on purpose: they cost memory and time for each object, and drop fields that
the client's release does not know. Login, TLS, token renewal and connection pool are the library's.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from plumbline_operator.resources import CHILDREN_MANAGER, PODS, STATUS_MANAGER, Resource

REQUEST_TIMEOUT_SECONDS = 15.0

LISTED_A_PAGE = 100
"""Objects that are asked for at once: a page is in memory as a whole, as text and parsed."""
_IDENTITY = ("namespace", "name", "uid", "resourceVersion", "labels")

APPLY = "application/apply-patch+yaml; charset=utf-8"
"""With a parameter, which the server ignores and for which the library sends the text as it is."""

Manifest = dict[str, Any]
RequestObserver = Callable[[str, str, str, float], None]
"""Called after each request with verb, resource, status code ("error" when there was no answer) and seconds."""


class ApiError(Exception):
    """The API server refused a request. `code` is the HTTP status, `reason` the API's own word (such as Forbidden),
    `name` the object that it is about, where the server names one."""

    def __init__(self, code: int, reason: str, message: str, name: str = "") -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.name = name

    @property
    def refuses_the_object(self) -> bool:
        """Whether the object itself is refused (quota, admission, validation), so that asking again at once is vain."""
        return self.code in (400, 403, 413, 422)


NO_ANSWER = (ApiError, aiohttp.ClientError, TimeoutError, OSError)
"""What a request may end with instead of what was asked for."""
COURTESY_SECONDS = 3.0
"""For a request whose answer only helps people to understand, and which must not hold up what a job needs."""


class Api:
    """The verbs that the operator uses."""

    def __init__(self, configuration: Configuration, observe_request: RequestObserver = lambda *_: None) -> None:
        self._client = ApiClient(configuration)
        self._client.user_agent = "plumbline-operator"
        self._observe_request = observe_request

    async def close(self) -> None:
        await self._client.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Manifest | None:
        """One object, or None if there is none of that name.

        Only the API server's own word that this object is not there is taken for it: whatever stands in front of the
        server, and a server that does not serve the kind for a moment, answer with 404 as well.
        """
        try:
            return await self._json("GET", resource, resource.path(namespace, name))
        except ApiError as error:
            if error.code == 404 and error.reason == "NotFound" and error.name == name:
                return None
            raise

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> list[Manifest]:
        """All objects that match."""
        pages = self.pages(resource, namespace, labels=labels, fields=fields)
        return [item async for page in pages for item in page]

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        metadata_only: bool = False,
    ) -> AsyncIterator[Sequence[Manifest]]:
        """`list` in pages, of which the next one is asked for when it is wanted; with `metadata_only` nothing but what
        says which object it is, of whom, and in which version."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(LISTED_A_PAGE)}
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1" if metadata_only else None
        while True:
            answer = await self._json("GET", resource, resource.path(namespace), query, verb="list", accept=accept)
            found: Sequence[Manifest] = answer.get("items") or []  # an empty list of metadata comes as null
            yield [_identity(item) for item in found] if metadata_only else found
            token = answer.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    async def apply(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Server-side apply of a child; creates it if it is not there."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        query = {"fieldManager": CHILDREN_MANAGER, "force": "true"}
        return await self._json("PATCH", resource, path, query, manifest, APPLY, verb="apply")

    async def apply_status(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Server-side apply of a job's status; 404 if the job is gone, 409 if it is another or a newer one."""
        metadata = manifest["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"], "status")
        query = {"fieldManager": STATUS_MANAGER, "force": "true"}
        return await self._json("PATCH", resource, path, query, manifest, APPLY, verb="apply_status")

    async def patch(self, resource: Resource, namespace: str, name: str, change: Manifest) -> Manifest:
        """JSON merge patch; 409 when `change` names another uid or version than the object has."""
        path, content_type = resource.path(namespace, name), "application/merge-patch+json"
        query = {"fieldManager": CHILDREN_MANAGER}
        return await self._json("PATCH", resource, path, query, change, content_type, verb="patch")

    async def create(self, resource: Resource, manifest: Manifest) -> bool:
        """Creates an object; False if one of that name exists."""
        try:
            path = resource.path(manifest["metadata"].get("namespace"))
            await self._json("POST", resource, path, None, manifest, "application/json", verb="create")
        except ApiError as error:
            if error.code == 409:
                return False
            raise
        return True

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str,
        propagation: str = "Background",
        grace_seconds: int | None = None,
    ) -> bool:
        """Deletes exactly this object; False if it is gone or another one has its name."""
        options: Manifest = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": propagation,
        }
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            path = resource.path(namespace, name)
            await self._json("DELETE", resource, path, None, options, "application/json")
        except ApiError as error:
            if error.code in (404, 409):
                return False
            raise
        return True

    async def log(self, namespace: str, pod: str, container: str, lines: int, timeout: float) -> str:
        """The last lines of a container's log."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": "262144"}
        body = await self._request("GET", PODS, PODS.path(namespace, pod, "log"), query, verb="log", timeout=timeout)
        return body.decode("utf-8", errors="replace")

    async def proxy(self, namespace: str, pod: str, port: int, path: str, timeout: float, *, most_bytes: int) -> bytes:
        """GET a path of a pod's HTTP server through the API server; raises ValueError when the answer is longer."""
        target = PODS.path(namespace, f"{pod}:{port}", "proxy") + path
        return await self._request("GET", PODS, target, None, verb="proxy", timeout=timeout, most_bytes=most_bytes)

    async def served(self, group: str, version: str) -> set[str]:
        """Plural names of the resources that the server has in a group version."""
        resource = Resource(group, version, "", "APIResourceList")
        try:
            answer = await self._json("GET", resource, f"/apis/{group}/{version}", verb="discover")
        except ApiError as error:
            if error.code == 404:
                return set()
            raise
        return {entry["name"] for entry in answer["resources"]}

    async def _json(
        self,
        method: str,
        resource: Resource,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
        *,
        verb: str = "",
        accept: str | None = None,
    ) -> Any:
        data = await self._request(method, resource, path, query, body, content_type, verb=verb, accept=accept)
        return json.loads(data)

    async def _request(
        self,
        method: str,
        resource: Resource,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
        *,
        verb: str = "",
        accept: str | None = None,
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        most_bytes: int | None = None,
    ) -> bytes:
        request = await self._client.param_serialize(
            method,
            path,
            query_params=[(name, value) for name, value in (query or {}).items() if value is not None],
            header_params={"Accept": accept or "application/json", "Content-Type": content_type},
            body=yaml_text(body) if content_type == APPLY and body is not None else body,
            auth_settings=["BearerToken"],
        )
        started = time.monotonic()
        code = "error"
        try:
            response = await self._client.call_api(*request, _request_timeout=aiohttp.ClientTimeout(total=timeout))
            data: bytes
            if most_bytes is None:
                data = await response.read()
            else:
                async with response.response as answer:
                    data = await read_bounded(answer.content, most_bytes)
            code = str(response.status)
        finally:
            self._observe_request(verb or method.lower(), resource.plural, code, time.monotonic() - started)
        if not 200 <= response.status <= 299:
            raise _error_of(response.status, data)
        return data


def _identity(item: Manifest) -> Manifest:
    """Most of an object's metadata is who has set which field, of which thousands of objects fill the memory."""
    return {"metadata": {field: item["metadata"][field] for field in _IDENTITY if field in item["metadata"]}}


def yaml_text(manifest: Manifest) -> str:
    """The manifest as YAML that is JSON too, where possible.

    The API server reads a patch to apply as YAML, which knows no escapes of halves of a character, as JSON has them for
    everything beyond the basic plane: those characters stand as they are. Line breaks that only YAML takes for such and
    characters that YAML allows nowhere are escaped; halves without a partner are no text, and are replaced.
    """
    text = json.dumps(manifest, ensure_ascii=False)
    return _ESCAPED_IN_YAML.sub(lambda match: f"\\u{ord(match.group()):04x}", _HALVES.sub("\ufffd", text))


_HALVES = re.compile("[\ud800-\udfff]")
_ESCAPED_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


async def read_bounded(content: aiohttp.StreamReader, most_bytes: int) -> bytes:
    """The whole body, read as it comes in segments; raises ValueError when it is longer."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise ValueError(f"the answer is longer than {most_bytes} bytes")
    return bytes(body)


def _error_of(status: int, data: bytes) -> ApiError:
    try:
        document = json.loads(data)
        details = document.get("details") or {}
        named = str(details.get("name") or "")
        return ApiError(status, document.get("reason") or "", document.get("message") or "", named)
    except (ValueError, AttributeError):
        return ApiError(status, "", data.decode("utf-8", errors="replace")[:1000])
