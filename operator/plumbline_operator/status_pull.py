"""Pulls `/v1/status` from rank 0 of every running job, beside the reconciliations and never in their way.

Reports stay in memory: they are only the freshest view of what the trainer knows, and are pulled again after a restart.
A reconciliation is asked for when a report says something new in kind (first report, other state, first checkpoint, a
warning), otherwise at most once in the progress interval.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from plumbline_api.contract import PORT, STATUS_PATH, StatusReport
from plumbline_operator.api import Api, ApiError
from plumbline_operator.model import Observed
from plumbline_operator.pods import PodView
from plumbline_operator.resources import JobKey

PULL_SECONDS = 5.0
TIMEOUT_SECONDS = 3.0
MOST_AT_ONCE = 32
MOST_BYTES = 64 * 1024

logger = logging.getLogger(__name__)

FAILURES = (ApiError, aiohttp.ClientError, TimeoutError, ValueError, OSError)


@dataclass
class _Target:
    """Rank 0 of one attempt."""

    pod: PodView
    due: float = 0.0
    busy: bool = False
    report: StatusReport | None = None
    told: float = field(default=float("-inf"))


class StatusPuller:
    """Reports of the running jobs."""

    def __init__(
        self,
        api: Api,
        enqueue: Callable[[JobKey], None],
        *,
        through_api_server: bool,
        progress_interval: float,
        pull_seconds: float = PULL_SECONDS,
    ) -> None:
        self._api = api
        self._enqueue = enqueue
        self._through_api_server = through_api_server
        self._progress_interval = progress_interval
        self._pull_seconds = pull_seconds
        self._targets: dict[JobKey, _Target] = {}
        self._session: aiohttp.ClientSession | None = None

    def report(self, key: JobKey) -> StatusReport | None:
        """The last report of the job's present rank 0."""
        target = self._targets.get(key)
        return target.report if target else None

    def follow(self, key: JobKey, observed: Observed) -> None:
        """Pull from the job's rank 0 as long as it runs."""
        leaders = [pod for pod in observed.pods if pod.rank == 0]
        leader = max(leaders, key=lambda pod: pod.attempt, default=None)
        if leader is None or leader.phase != "Running" or not leader.ip:
            self.forget(key)
            return
        target = self._targets.get(key)
        if target is None or target.pod.uid != leader.uid:
            self._targets[key] = _Target(leader)
        else:
            target.pod = leader

    def forget(self, key: JobKey) -> None:
        self._targets.pop(key, None)

    async def run(self) -> None:
        """Runs until cancelled."""
        # Pods are reached directly, never through a proxy of the environment.
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        limit = asyncio.Semaphore(MOST_AT_ONCE)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, asyncio.TaskGroup() as group:
            self._session = session
            while True:
                now = time.monotonic()
                for key, target in list(self._targets.items()):
                    if not target.busy and target.due <= now:
                        target.busy = True
                        group.create_task(self._pull(key, target, limit))
                await asyncio.sleep(min(1.0, self._pull_seconds / 2))

    async def _pull(self, key: JobKey, target: _Target, limit: asyncio.Semaphore) -> None:
        try:
            async with limit:
                report = StatusReport.model_validate_json(await self._fetch(key, target.pod))
        except FAILURES as error:
            # Not up yet, busy in a long step, or just gone: the pod's state says which, and the next pull asks again.
            logger.debug("No status report", extra={"key": str(key), "error": str(error)})
        except Exception:
            # Whatever one trainer answers, the others are asked on.
            logger.exception("Pulling a status report failed", extra={"key": str(key)})
        else:
            self._take(key, target, report)
        finally:
            target.busy = False
            target.due = time.monotonic() + self._pull_seconds

    def _take(self, key: JobKey, target: _Target, report: StatusReport) -> None:
        before, target.report = target.report, report
        if self._targets.get(key) is not target or before == report:
            return
        now = time.monotonic()
        if _news(before, report) or now - target.told >= self._progress_interval:
            target.told = now
            self._enqueue(key)

    async def _fetch(self, key: JobKey, pod: PodView) -> bytes:
        if self._through_api_server:
            return await self._api.proxy(key.namespace, pod.name, PORT, STATUS_PATH, TIMEOUT_SECONDS)
        assert self._session is not None
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        async with self._session.get(f"http://{host}:{PORT}{STATUS_PATH}", allow_redirects=False) as response:
            response.raise_for_status()
            return await _read_all(response.content)


async def _read_all(content: aiohttp.StreamReader) -> bytes:
    """The whole body: a single read returns what has arrived so far, which on a real network is one segment."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MOST_BYTES:
            raise ValueError(f"the status report is longer than {MOST_BYTES} bytes")
    return bytes(body)


def _news(before: StatusReport | None, report: StatusReport) -> bool:
    if before is None or before.state != report.state or before.warnings != report.warnings:
        return True
    return (before.checkpoint is None) != (report.checkpoint is None)
