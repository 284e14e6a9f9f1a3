"""The last lines of containers' logs: a courtesy that takes little time and is never in the way of a decision.

A log comes from a kubelet, which may be slow or gone just when pods fail. All logs of one look are read at the same
time, pods on nodes that are known not to answer are passed over, and what was read is kept: a reconciliation looks
several times, and the log of a container that has ended changes no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plumbline_operator.api import NO_ANSWER, Api
from plumbline_operator.decide.attempts import LOG_TAIL_LIMIT
from plumbline_operator.pods import PREFLIGHT_CONTAINER, TRAINER_CONTAINER, PodView

LOG_TAIL_LINES = 60
LOG_SECONDS = 3.0
"""For all logs of one look."""
KEPT_SECONDS = 3.0
"""How long the log of a running container, or that there is none, is taken for true."""
MOST_PODS = 8
MOST_KEPT = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kept:
    text: str
    until: float


class LogReader:
    """Reads and keeps the last lines of pods' logs."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._kept: dict[tuple[str, str], _Kept] = {}
        """By uid of the pod and name of the container; the oldest first."""

    async def read(self, namespace: str, pods: Sequence[PodView], nodes: Mapping[str, bool]) -> dict[str, str]:
        """The log of each pod's failed container, or else of its trainer; empty where there is none to be had.

        `nodes` says of some nodes whether they are ready.
        """
        asked = [pod for pod in pods if nodes.get(pod.node) is not False][:MOST_PODS]
        texts = await asyncio.gather(*(self._tail(namespace, pod) for pod in asked))
        return {pod.name: text for pod, text in zip(asked, texts, strict=True)}

    async def _tail(self, namespace: str, pod: PodView) -> str:
        failed = pod.failed_container
        container = failed.name if failed else TRAINER_CONTAINER
        if container not in (PREFLIGHT_CONTAINER, TRAINER_CONTAINER):
            return ""
        key = (pod.uid, container)
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() < kept.until:
            return kept.text
        try:
            async with asyncio.timeout(LOG_SECONDS):
                text = await self._api.log(namespace, pod.name, container, LOG_TAIL_LINES, LOG_SECONDS)
        except NO_ANSWER as error:
            # The node may be gone. The failure is recorded without its log.
            logger.info("No log of a pod", extra={"pod": f"{namespace}/{pod.name}", "error": str(error)})
            text = ""
        final = failed is not None and text != ""
        self._kept.pop(key, None)
        self._kept[key] = _Kept(text[-LOG_TAIL_LIMIT:], float("inf") if final else time.monotonic() + KEPT_SECONDS)
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return self._kept[key].text
