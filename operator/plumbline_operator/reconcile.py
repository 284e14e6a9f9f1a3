"""One reconciliation: observe, decide, apply, and again while the steps change what the next decision sees."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from plumbline_operator.api import Api
from plumbline_operator.apply import Applied, JobChanged, apply
from plumbline_operator.capacity import CapacityReader
from plumbline_operator.child_index import ChildIndex
from plumbline_operator.decide import decide
from plumbline_operator.decide.draft import read_status
from plumbline_operator.departed import DepartedPods
from plumbline_operator.event_budget import EventBudget
from plumbline_operator.listed import ListedObjects, NotListed
from plumbline_operator.log_tails import LogReader
from plumbline_operator.metrics import OperatorMetrics
from plumbline_operator.model import Decision, Observed, Refusal, WriteStatus
from plumbline_operator.observe import Reader, observe
from plumbline_operator.queue import WorkQueue
from plumbline_operator.registry import JobRegistry
from plumbline_operator.resources import JobKey
from plumbline_operator.seen import SeenVersions
from plumbline_operator.status_pull import StatusPuller

MOST_ROUNDS = 8
"""Accept, start, service, pods and describe are five; more means that decisions do not settle."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Brings one job at a time towards what its spec asks for."""

    def __init__(
        self,
        api: Api,
        queue: WorkQueue[JobKey],
        registry: JobRegistry,
        puller: StatusPuller,
        departed: DepartedPods,
        children: ChildIndex,
        seen: SeenVersions,
        listed: ListedObjects,
        metrics: OperatorMetrics,
        *,
        progress_interval: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._queue = queue
        self._registry = registry
        self._puller = puller
        self._departed = departed
        self._children = children
        self._seen = seen
        self._listed = listed
        self._capacity = CapacityReader(api)
        self._logs = LogReader(api)
        self._event_budget = EventBudget()
        self._metrics = metrics
        self._progress_interval = progress_interval
        self._clock = clock
        self._status_written: dict[JobKey, float] = {}

    async def __call__(self, key: JobKey) -> None:
        """Work on a key; raises what asking again may mend."""
        started = time.monotonic()
        result = "error"
        try:
            result = await self._reconcile(key)
        finally:
            self._metrics.reconciled(key.kind, result, time.monotonic() - started)

    async def _reconcile(self, key: JobKey) -> str:
        if await self._needs_nothing(key):
            return "settled"
        refusals: tuple[Refusal, ...] = ()
        for _ in range(MOST_ROUNDS):
            observed_at = time.monotonic()
            observed = await self._observe(self._api, key)
            if observed is None:
                self._forget(key)
                return "gone"
            if refusals:
                observed = dataclasses.replace(observed, refusals=refusals)
            decision = decide(observed, self._clock())
            try:
                applied = await self._apply(key, observed, decision, observed_at)
            except JobChanged:
                continue
            self._follow(key, observed, decision)
            if applied.refusals and not refusals:
                refusals = applied.refusals
                continue
            if decision.again:
                continue
            self._settle(key, decision, seen_versions(observed, decision, applied))
            return "settled"
        logger.warning("Decisions do not settle", extra={"key": str(key)})
        self._queue.add_after(key, 1.0)
        return "unsettled"

    async def _needs_nothing(self, key: JobKey) -> bool:
        """Whether a first look, at what was listed of the job, shows that there is nothing to do about it."""
        listed = self._listed.take(key)
        if listed is None or key in self._seen:
            return False
        try:
            observed = await self._observe(listed, key)
        except NotListed:
            return False
        decision = decide(observed, self._clock()) if observed is not None else None
        if observed is None or decision is None or decision.steps or decision.again:
            return False
        self._follow(key, observed, decision)
        self._settle(key, decision, observed.versions)
        return True

    async def _observe(self, reader: Reader, key: JobKey) -> Observed | None:
        report, silent = self._puller.report(key), self._puller.silent_seconds(key)
        departed, children = self._departed, self._children
        return await observe(reader, key, report, departed, children, self._capacity, self._logs, silent)

    def _follow(self, key: JobKey, observed: Observed, decision: Decision) -> None:
        self._registry.store(key, _phase_after(observed, decision))
        self._puller.follow(key, observed)

    def _settle(self, key: JobKey, decision: Decision, seen: Mapping[str, str]) -> None:
        self._seen.store(key, seen)
        if decision.requeue_after is not None:
            self._queue.add_after(key, decision.requeue_after)

    async def _apply(self, key: JobKey, observed: Observed, decision: Decision, observed_at: float) -> Applied:
        writes = [step for step in decision.steps if isinstance(step, WriteStatus)]
        wait = self._status_written.get(key, float("-inf")) + self._progress_interval - time.monotonic()
        write = wait <= 0 or any(step.urgent for step in writes)
        steps, left_out = self._event_budget.within(key, decision.steps, time.monotonic())
        if left_out:
            logger.info("Events left out", extra={"key": str(key), "events": left_out})
            decision = dataclasses.replace(decision, steps=steps)
        applied = await apply(self._api, key, observed.job, decision, write_status=write, observed_at=observed_at)
        if writes and write:
            self._status_written[key] = time.monotonic()
        elif writes:
            self._queue.add_after(key, wait)
        return applied

    def _forget(self, key: JobKey) -> None:
        self._registry.remove(key)
        self._puller.forget(key)
        self._departed.forget(key)
        self._seen.forget(key)
        self._listed.drop(key)
        self._event_budget.forget(key)
        self._queue.forget(key)
        self._status_written.pop(key, None)


def seen_versions(observed: Observed, decision: Decision, applied: Applied) -> Mapping[str, str]:
    """What an event need not be looked at for. Progress that was just written is the job as it was decided on, and
    after each of thousands of such writes another look would find nothing; after any other write it takes place."""
    if any(step.urgent for step in decision.steps if isinstance(step, WriteStatus)):
        return observed.versions
    return {**observed.versions, observed.job["metadata"]["uid"]: applied.version}


def _phase_after(observed: Observed, decision: Decision) -> str:
    """Phase of the job when the decision is carried out."""
    written = [step.status.phase for step in decision.steps if isinstance(step, WriteStatus)]
    return written[-1] if written else read_status(observed.job).phase
