"""Pulls `/v1/status` from rank 0 of every running job, beside the reconciliations and never in their way.

Reports stay in memory: they are only the freshest view of what the trainer knows, and are pulled again after a restart.
A reconciliation is asked for when a report says something new in kind (other state, first checkpoint, a warning; see
`report_news`) or a trainer does not answer any more, otherwise at most once in the progress interval.

A trainer is not trusted to answer well. An answer is bounded in time and size, never unpacked, no redirect is followed,
and what it says goes through `untrusted`. Who wastes time or answers with nonsense is asked less and less often, so
that many of them take little from the others; who has news all the time is heard at the pace of progress. All trainers
together are asked at most `MOST_A_SECOND` times a second, and their progress leads to `PROGRESS_A_SECOND`
reconciliations, and to none while every worker is busy: with very many jobs each is asked and written less often, and
no new job waits behind the progress of others.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from plumbline_api.contract import PORT, STATUS_PATH, StatusReport
from plumbline_operator.api import Api, ApiError, read_bounded
from plumbline_operator.decide.draft import read_status
from plumbline_operator.decide.stall import SILENT_SECONDS
from plumbline_operator.model import Observed
from plumbline_operator.pods import PodView
from plumbline_operator.report_news import StoredWord, is_news
from plumbline_operator.resources import JobKey
from plumbline_operator.untrusted import MOST_BYTES, read_report

PULL_SECONDS = 5.0
TIMEOUT_SECONDS = 3.0
TICK_SECONDS = 0.2
MOST_AT_ONCE = 32
MOST_A_SECOND = 100
PROGRESS_A_SECOND = 20.0
MOST_DOUBLINGS = 5
"""Of the pause after answers of no use: from 5 s to 160 s."""
NEWS_AT_ONCE = 8
"""News of one trainer that are told at once; each pull without any gives one back."""

logger = logging.getLogger(__name__)

UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError, ApiError)
"""Not up yet or just gone: costs next to nothing, and is over soon."""
USELESS = (aiohttp.ClientError, TimeoutError, ValueError, OSError)
"""Too slow, too long or not a report."""


@dataclass
class _Target:
    """Rank 0 of one attempt."""

    pod: PodView
    stored: StoredWord
    due: float = 0.0
    busy: bool = False
    report: StatusReport | None = None
    has_untold: bool = False
    """Whether a report came after the last one that a reconciliation was asked for."""
    silence_told: bool = False
    told: float = field(default=float("-inf"))
    useless_in_a_row: int = 0
    unanswered_since: float | None = None
    news_left: int = NEWS_AT_ONCE


class StatusPuller:
    """Reports of the running jobs."""

    def __init__(
        self,
        api: Api,
        enqueue: Callable[[JobKey], None],
        *,
        has_time: Callable[[], bool] = lambda: True,
        through_api_server: bool,
        progress_interval: float,
        pull_seconds: float = PULL_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`enqueue` asks for a reconciliation; one for mere progress is only asked for while `has_time`."""
        self._api = api
        self._enqueue = enqueue
        self._has_time = has_time
        self._through_api_server = through_api_server
        self._progress_interval = progress_interval
        self._pull_seconds = pull_seconds
        self._timeout_seconds = timeout_seconds
        self._targets: dict[JobKey, _Target] = {}
        self._progress_left = PROGRESS_A_SECOND
        """Reconciliations that progress may still ask for in this second."""
        self._session: aiohttp.ClientSession | None = None

    def report(self, key: JobKey) -> StatusReport | None:
        """The last report of the job's present rank 0."""
        target = self._targets.get(key)
        return target.report if target else None

    def silent_seconds(self, key: JobKey) -> float:
        """How long the job's present rank 0 has left every question unanswered; 0 while it answers."""
        target = self._targets.get(key)
        if target is None or target.unanswered_since is None:
            return 0.0
        return time.monotonic() - target.unanswered_since

    def follow(self, key: JobKey, observed: Observed) -> None:
        """Pull from the job's rank 0 as long as it runs."""
        leaders = [pod for pod in observed.pods if pod.rank == 0]
        leader = max(leaders, key=lambda pod: pod.attempt, default=None)
        if leader is None or leader.phase != "Running" or not leader.ip:
            self.forget(key)
            return
        target = self._targets.get(key)
        if target is None or target.pod.uid != leader.uid:
            self._targets[key] = _Target(leader, StoredWord.of(read_status(observed.job), leader.attempt))
        else:
            target.pod = leader

    def forget(self, key: JobKey) -> None:
        self._targets.pop(key, None)

    async def run(self) -> None:
        """Runs until cancelled."""
        # Pods are reached directly, never through a proxy of the environment. A connection is used once: kept open, a
        # thousand trainers would hold a thousand descriptors.
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MOST_AT_ONCE, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
        )
        limit = asyncio.Semaphore(MOST_AT_ONCE)
        tick = min(TICK_SECONDS, self._pull_seconds / 2)
        async with session, asyncio.TaskGroup() as group:
            self._session = session
            while True:
                self._progress_left = min(PROGRESS_A_SECOND, self._progress_left + PROGRESS_A_SECOND * tick)
                for key, target in self._longest_due(max(1, round(MOST_A_SECOND * tick))):
                    target.busy = True
                    group.create_task(self._pull(key, target, limit))
                await asyncio.sleep(tick)

    def _longest_due(self, most: int) -> list[tuple[JobKey, _Target]]:
        now = time.monotonic()
        due = ((key, target) for key, target in self._targets.items() if not target.busy and target.due <= now)
        return heapq.nsmallest(most, due, key=lambda pair: pair[1].due)

    async def _pull(self, key: JobKey, target: _Target, limit: asyncio.Semaphore) -> None:
        pause = self._pull_seconds
        asked = time.monotonic()
        answered = False
        try:
            async with limit:
                report = read_report(await self._fetch(key, target.pod))
        except UNREACHABLE as error:
            # The pod's state says which, and the next pull asks again.
            logger.debug("No status report", extra={"key": str(key), "error": str(error)})
        except USELESS as error:
            pause = self._pause_after_useless(target)
            # What it said is not repeated: a log is no place for the words of strangers.
            about = {"key": str(key), "error": type(error).__name__, "pause_seconds": pause}
            logger.debug("A status report of no use", extra=about)
        except Exception:
            # Whatever one trainer answers, the others are asked on.
            logger.exception("Pulling a status report failed", extra={"key": str(key)})
        else:
            answered = True
            target.useless_in_a_row = 0
            target.silence_told = False
            self._take(key, target, report)
        finally:
            target.busy = False
            if not answered:
                self._miss(key, target, asked)
            target.unanswered_since = None if answered else target.unanswered_since or asked
            target.due = time.monotonic() + pause

    def _miss(self, key: JobKey, target: _Target, now: float) -> None:
        """An answer is missing: the pod may be gone, and nobody else may tell.

        Told at once of a trainer that answered until now, and of one that this operator has never heard when it may be
        found to hang: from then on the decision knows when to look again.
        """
        if self._targets.get(key) is not target:
            return
        if target.report is not None:
            if target.unanswered_since is None and target.news_left > 0:
                target.news_left -= 1
                self._enqueue(key)
        elif not target.silence_told and now - (target.unanswered_since or now) >= SILENT_SECONDS:
            target.silence_told = True
            self._enqueue(key)

    def _pause_after_useless(self, target: _Target) -> float:
        pause = self._pull_seconds * 2 ** min(target.useless_in_a_row, MOST_DOUBLINGS)
        target.useless_in_a_row += 1
        return pause

    def _take(self, key: JobKey, target: _Target, report: StatusReport) -> None:
        before, target.report = target.report, report
        if self._targets.get(key) is not target:
            return
        news = not target.stored.knows(report) if before is None else is_news(before, report)
        at_once = news and target.news_left > 0
        target.news_left = target.news_left - 1 if at_once else min(NEWS_AT_ONCE, target.news_left + (not news))
        target.has_untold |= before != report
        now = time.monotonic()
        if at_once:
            self._tell(key, target, now)
        elif (
            target.has_untold
            and now - target.told >= self._progress_interval
            and self._progress_left >= 1
            and self._has_time()
        ):
            self._progress_left -= 1
            self._tell(key, target, now)

    def _tell(self, key: JobKey, target: _Target, now: float) -> None:
        target.told, target.has_untold = now, False
        self._enqueue(key)

    async def _fetch(self, key: JobKey, pod: PodView) -> bytes:
        if self._through_api_server:
            return await self._api.proxy(
                key.namespace, pod.name, PORT, STATUS_PATH, self._timeout_seconds, most_bytes=MOST_BYTES
            )
        assert self._session is not None
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        async with self._session.get(f"http://{host}:{PORT}{STATUS_PATH}", allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"the answer has the status {response.status}")
            return await read_bounded(response.content, MOST_BYTES)
