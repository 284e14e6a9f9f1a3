"""What the nodes of the cluster have and what is asked of them: read only for pods that fit nowhere, and not often.

It only makes a message clearer, so nothing waits for it long, and without an answer the last one is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

from plumbline_operator.api import COURTESY_SECONDS, NO_ANSWER, Api, ApiError
from plumbline_operator.model import NOTHING, Manifest, NodeCapacity
from plumbline_operator.quantities import parse_quantity
from plumbline_operator.resources import NODES, PODS

KEPT_SECONDS = 15.0
"""A thousand jobs that wait for the same GPUs ask for the same facts."""


logger = logging.getLogger(__name__)


class CapacityReader:
    """The nodes' capacities, at most `KEPT_SECONDS` old while the API server answers."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._read_at = float("-inf")
        self._nodes: tuple[NodeCapacity, ...] = ()
        self._reading = asyncio.Lock()

    async def read(self) -> tuple[NodeCapacity, ...]:
        """The nodes that take pods; none without permission to list nodes, or while nobody could be asked yet."""
        async with self._reading:
            if time.monotonic() - self._read_at > KEPT_SECONDS:
                try:
                    async with asyncio.timeout(COURTESY_SECONDS):
                        self._nodes = await self._read()
                except NO_ANSWER as error:
                    logger.info("The nodes' capacities cannot be read", extra={"error": str(error)})
                self._read_at = time.monotonic()
            return self._nodes

    async def _read(self) -> tuple[NodeCapacity, ...]:
        try:
            nodes = await self._api.list(NODES)
        except ApiError as error:
            if error.code != 403:
                raise
            return ()
        try:
            pods = await self._api.list(PODS, fields="spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed")
        except ApiError as error:
            if error.code != 403:  # an operator of some namespaces knows what nodes have, not what is left
                raise
            return capacities(nodes, None)
        return capacities(nodes, pods)


def capacities(nodes: Iterable[Manifest], pods: Iterable[Manifest] | None) -> tuple[NodeCapacity, ...]:
    """The nodes that are ready and not cordoned, with what `pods` ask of them; None where that is not known."""
    used: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for pod in pods or ():
        for resource, amount in _requests(pod).items():
            used[pod["spec"]["nodeName"]][resource] += amount
    return tuple(
        NodeCapacity(
            name,
            _amounts((node.get("status") or {}).get("allocatable") or {}),
            None if pods is None else used[name],
        )
        for node in nodes
        if _takes_pods(node) and (name := node["metadata"]["name"])
    )


def _takes_pods(node: Manifest) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return ready and not (node.get("spec") or {}).get("unschedulable")


def _requests(pod: Manifest) -> dict[str, Decimal]:
    """What the scheduler counts: the sum over containers or the largest init container, and the pod's overhead."""
    spec = pod["spec"]
    total: dict[str, Decimal] = defaultdict(Decimal)
    for container in spec.get("containers") or []:
        for resource, amount in _amounts((container.get("resources") or {}).get("requests") or {}).items():
            total[resource] += amount
    for container in spec.get("initContainers") or []:
        for resource, amount in _amounts((container.get("resources") or {}).get("requests") or {}).items():
            total[resource] = max(total.get(resource, NOTHING), amount)
    for resource, amount in _amounts(spec.get("overhead") or {}).items():
        total[resource] += amount
    return total


def _amounts(quantities: dict[str, str]) -> dict[str, Decimal]:
    return {resource: parse_quantity(str(quantity)) for resource, quantity in quantities.items()}
