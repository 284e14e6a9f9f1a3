"""Metrics of the operator. Jobs are counted when they are scraped, so a deleted job leaves no series behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from plumbline_api.conditions import Phase
from plumbline_operator.queue import WorkQueue
from plumbline_operator.registry import JobRegistry
from plumbline_operator.resources import JOBS, JobKey

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class WatchActivity:
    """When each watched resource last had an event, by plural name."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def touch(self, plural: str) -> None:
        self._last[plural] = time.monotonic()

    def ages(self) -> dict[str, float]:
        """Seconds since the last event; large on a quiet cluster, which is no fault."""
        now = time.monotonic()
        return {plural: now - last for plural, last in list(self._last.items())}


class OperatorMetrics:
    """What `/metrics` shows."""

    def __init__(self, jobs: JobRegistry, queue: WorkQueue[JobKey], watches: WatchActivity) -> None:
        disable_created_metrics()  # a gauge of creation times beside each counter, which nobody asked for
        self.registry = CollectorRegistry()
        self._reconcile_seconds = Histogram(
            "plumbline_operator_reconcile_duration_seconds",
            "Duration of one reconciliation.",
            ["kind"],
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self._reconciles = Counter(
            "plumbline_operator_reconcile",
            "Reconciliations, by kind and result: settled, gone, unsettled or error.",
            ["kind", "result"],
            registry=self.registry,
        )
        self._requests = Counter(
            "plumbline_operator_api_requests",
            "Requests to the API server, by verb, resource and status code.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "plumbline_operator_api_request_duration_seconds",
            "Duration of requests to the API server, by verb.",
            ["verb"],
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_StateCollector(jobs, queue, watches))

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        self._reconcile_seconds.labels(kind).observe(seconds)
        self._reconciles.labels(kind, result).inc()

    def requested(self, verb: str, resource: str, code: str, seconds: float) -> None:
        self._requests.labels(verb, resource, code).inc()
        self._request_seconds.labels(verb).observe(seconds)

    def serve(self, port: int) -> None:
        """Serves `/metrics` from a thread; a scrape does not wait for the event loop, nor the loop for a scrape."""
        start_http_server(port, registry=self.registry)


class _StateCollector(Collector):
    """What is read off the operator's state at scrape time."""

    def __init__(self, jobs: JobRegistry, queue: WorkQueue[JobKey], watches: WatchActivity) -> None:
        self._jobs = jobs
        self._queue = queue
        self._watches = watches

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("plumbline_operator_jobs", "Jobs, by kind and phase.", labels=["kind", "phase"])
        counts = self._jobs.phases()
        for kind in JOBS:
            for phase in Phase:
                jobs.add_metric([kind, phase], counts.get((kind, phase), 0))
        yield jobs
        yield GaugeMetricFamily(
            "plumbline_operator_queue_depth", "Keys that wait for a worker.", value=self._queue.depth
        )
        yield GaugeMetricFamily(
            "plumbline_operator_queue_working", "Keys that a worker has.", value=self._queue.working
        )
        yield GaugeMetricFamily(
            "plumbline_operator_queue_scheduled",
            "Keys that are due later: backoff, deadlines, time to live.",
            value=self._queue.scheduled,
        )
        ages = GaugeMetricFamily(
            "plumbline_operator_watch_age_seconds",
            "Time since the last event of a watched resource; grows on a quiet cluster.",
            labels=["resource"],
        )
        for plural, age in self._watches.ages().items():
            ages.add_metric([plural], age)
        yield ages
        build = InfoMetricFamily("plumbline_operator_build", "Version of the operator.")
        build.add_metric([], {"version": build_version()})
        yield build


def build_version() -> str:
    """Version of the installed distribution; `unknown` when run from a source tree."""
    try:
        return version("plumbline")
    except PackageNotFoundError:
        return "unknown"
