"""Thousands of running jobs as the operator leaves them, without waiting for it: copies of one that it made.

The operator takes one job to Running. Its objects are then written again under other names, with the new job's uid, so
that an operator that starts finds what it would have left behind itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp

from tests.operator.live_cluster import GROUP
from tests.scale.world import send

WRITERS = 16
KINDS = (("ConfigMap", "configmaps"), ("Service", "services"), ("Pod", "pods"))
TEMPLATE = "template-of-all"


class Template:
    """The objects of one running job, as texts that stand for any other."""

    def __init__(self, job: dict[str, Any], children: dict[str, dict[str, Any]]) -> None:
        self._name, self._uid = job["metadata"]["name"], job["metadata"]["uid"]
        self._job = job
        self._children = children

    @classmethod
    async def read(cls, session: aiohttp.ClientSession, namespace: str) -> Template:
        """Reads the template job and its children; each kind is there once."""
        job = await _get(session, f"{GROUP}/namespaces/{namespace}/preferencejobs/{TEMPLATE}")
        children = {}
        for kind, plural in KINDS:
            query = f"/api/v1/namespaces/{namespace}/{plural}?labelSelector=plumbline.dev/job-name={TEMPLATE}"
            (children[kind],) = (await _get(session, query))["items"]
        return cls(job, children)

    async def write(self, session: aiohttp.ClientSession, name: str, namespace: str, address: str) -> None:
        """Writes the job and its children under another name; its pod runs at `address`."""
        jobs = f"{GROUP}/namespaces/{namespace}/preferencejobs"
        spec = self._told(self._job["spec"], name, "")
        document = {**self._job, "metadata": {"name": name, "namespace": namespace}, "spec": spec}
        uid = (await send(session, "POST", jobs, document))["metadata"]["uid"]
        for kind, plural in KINDS:
            await self._write_child(session, kind, plural, name, namespace, uid, address)
        status = self._told(self._job["status"], name, uid)
        await send(session, "PATCH", f"{jobs}/{name}/status", {"status": status}, "merge-patch+json")

    async def _write_child(
        self,
        session: aiohttp.ClientSession,
        kind: str,
        plural: str,
        name: str,
        namespace: str,
        uid: str,
        address: str,
    ) -> None:
        child = self._told(self._children[kind], name, uid)
        kept = {key: child["metadata"][key] for key in ("name", "labels", "annotations", "ownerReferences")
                if key in child["metadata"]}  # fmt: skip
        status = child.pop("status", {})
        child |= {"apiVersion": "v1", "kind": kind, "metadata": {**kept, "namespace": namespace}}
        if kind == "Service":
            child["spec"].pop("clusterIP", None)
            child["spec"].pop("clusterIPs", None)
        if kind == "Pod":
            # The API server gives every pod its token volume anew.
            child["spec"].pop("serviceAccount", None)
        path = f"/api/v1/namespaces/{namespace}/{plural}"
        await send(session, "POST", path, child)
        if kind == "Pod":
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
            change = {"status": status}
            await send(session, "PATCH", f"{path}/{kept['name']}/status", change, "merge-patch+json")

    def _told(self, document: Any, name: str, uid: str) -> Any:
        return json.loads(json.dumps(document).replace(self._name, name).replace(self._uid, uid))


async def seed(session: aiohttp.ClientSession, template: Template, count: int, namespaces: Sequence[str]) -> None:
    """Writes so many running jobs, spread over the namespaces."""
    waiting = list(range(count))

    async def write() -> None:
        while waiting:
            number = waiting.pop()
            address = f"127.250.{number // 250}.{number % 250 + 1}"
            await template.write(session, f"seeded-{number:05}", namespaces[number % len(namespaces)], address)

    await asyncio.gather(*(write() for _ in range(WRITERS)))


async def _get(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with session.get(path) as response:
        response.raise_for_status()
        document: dict[str, Any] = await response.json()
        return document
