"""Metrics of the operator. Jobs are read off the registry at each scrape, so a deleted job leaves no series behind."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plumbline_api.conditions import Phase
from plumbline_operator.job_metrics import JOB_FAMILIES, Family, samples, shown_jobs
from plumbline_operator.queue import WorkQueue
from plumbline_operator.registry import JobRegistry
from plumbline_operator.resources import JOBS, JobKey

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

MOST_JOBS = 1000
"""Jobs with series of their own: about 30 each. Sums over all jobs do not depend on it."""

RECONCILE_SECONDS = Family(
    "plumbline_operator_reconcile_duration_seconds",
    "Duration of a reconciliation, requests included.",
    ("kind",),
    "histogram",
)
RECONCILES = Family(
    "plumbline_operator_reconcile",
    "Reconciliations. settled: nothing is left to do now; gone: the job was deleted; unsettled: still something to do"
    " after eight rounds; error: comes back after its backoff.",
    ("kind", "result"),
    "counter",
)
API_REQUESTS = Family(
    "plumbline_operator_api_requests",
    "Requests to the API server; code error when there was no answer.",
    ("verb", "resource", "code"),
    "counter",
)
API_SECONDS = Family(
    "plumbline_operator_api_request_duration_seconds", "Duration of requests to the API server.", ("verb",), "histogram"
)
JOB_COUNT = Family("plumbline_operator_jobs", "All jobs; every phase has a series.", ("kind", "phase"))
GPU_COUNT = Family(
    "plumbline_operator_gpus", "GPUs that all jobs ask for; every phase has a series.", ("kind", "phase")
)
HIDDEN_JOBS = Family(
    "plumbline_operator_jobs_without_series", "Jobs beyond the limit of --metrics-jobs; those that ended first."
)
QUEUE_DEPTH = Family("plumbline_operator_queue_depth", "Keys that wait for a worker.")
QUEUE_WORKING = Family("plumbline_operator_queue_working", "Keys that a worker has.")
QUEUE_SCHEDULED = Family(
    "plumbline_operator_queue_scheduled", "Keys that are due later: backoff, deadlines, time to live."
)
WATCH_AGE = Family(
    "plumbline_operator_watch_age_seconds",
    "Time since the last event of a watched resource. It grows on a quiet cluster, so do not alert on it.",
    ("resource",),
)
WATCH_SILENT = Family(
    "plumbline_operator_watch_silent",
    "1 for a watch stream that has not delivered what the API server holds, or an audit that finds out nothing; then"
    " the liveness probe fails as well.",
    ("resource",),
)
LEADER = Family(
    "plumbline_operator_leader",
    "1 for the operator that works, 0 for one that stands by; only the one that works counts jobs and keys.",
)
BUILD = Family("plumbline_operator_build_info", "Always 1; the version is in its label.", ("version",))

OPERATOR_FAMILIES = (
    JOB_COUNT,
    GPU_COUNT,
    HIDDEN_JOBS,
    RECONCILES,
    RECONCILE_SECONDS,
    QUEUE_DEPTH,
    QUEUE_WORKING,
    QUEUE_SCHEDULED,
    API_REQUESTS,
    API_SECONDS,
    WATCH_AGE,
    WATCH_SILENT,
    LEADER,
    BUILD,
)

_LEADING = (JOB_COUNT, GPU_COUNT, HIDDEN_JOBS, QUEUE_DEPTH, QUEUE_WORKING, QUEUE_SCHEDULED)
"""Gauges of the operator that works; one that stands by has none of them."""
_ALWAYS = (LEADER, WATCH_AGE, WATCH_SILENT, BUILD)


class WatchActivity:
    """When each watched resource last had an event, by plural name."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def touch(self, plural: str) -> None:
        self._last[plural] = time.monotonic()

    def ages(self) -> dict[str, float]:
        """Seconds since the last event; large on a quiet cluster, which is no fault."""
        now = time.monotonic()
        return {plural: now - last for plural, last in self._last.copy().items()}


class OperatorMetrics:
    """What `/metrics` shows."""

    def __init__(
        self, jobs: JobRegistry, queue: WorkQueue[JobKey], watches: WatchActivity, most_jobs: int = MOST_JOBS
    ) -> None:
        """At most `most_jobs` jobs get series of their own."""
        disable_created_metrics()  # a gauge of creation times beside each counter, which nobody asked for
        self.registry = CollectorRegistry()
        self._reconcile_seconds = self._histogram(RECONCILE_SECONDS)
        self._reconciles = self._counter(RECONCILES)
        self._requests = self._counter(API_REQUESTS)
        self._request_seconds = self._histogram(API_SECONDS)
        self._state = _StateCollector(jobs, queue, watches, most_jobs)
        self._single_jobs = _JobCollector(jobs, most_jobs)
        self.registry.register(self._state)
        self.registry.register(self._single_jobs)
        ProcessCollector(registry=self.registry)

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        self._reconcile_seconds.labels(kind).observe(seconds)
        self._reconciles.labels(kind, result).inc()

    def requested(self, verb: str, resource: str, code: str, seconds: float) -> None:
        self._requests.labels(verb, resource, code).inc()
        self._request_seconds.labels(verb).observe(seconds)

    def show_silent(self, streams: Sequence[str], silent: Callable[[], list[str]]) -> None:
        """From now on each of `streams` has a series that is 1 while `silent` names it."""
        self._state.streams, self._state.silent = tuple(streams), silent

    def show_leadership(self, leads: Callable[[], bool]) -> None:
        """From now on jobs and keys are counted only while `leads` says so: several operators know the same ones."""
        self._state.leads = self._single_jobs.leads = leads

    def serve(self, port: int) -> None:
        """Serves `/metrics` from a thread; a scrape does not wait for the event loop, nor the loop for a scrape."""
        start_http_server(port, registry=self.registry)

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.documentation, family.labels, registry=self.registry)

    def _histogram(self, family: Family) -> Histogram:
        return Histogram(
            family.name, family.documentation, family.labels, buckets=DURATION_BUCKETS, registry=self.registry
        )


class _StateCollector(Collector):
    """What is read off the operator's state at scrape time."""

    def __init__(self, jobs: JobRegistry, queue: WorkQueue[JobKey], watches: WatchActivity, most_jobs: int) -> None:
        self._jobs = jobs
        self._queue = queue
        self._watches = watches
        self._most_jobs = most_jobs
        self.streams: tuple[str, ...] = ()
        self.silent: Callable[[], list[str]] = list
        self.leads: Callable[[], bool] = lambda: True

    def describe(self) -> Iterator[Metric]:
        """Names, by which a scrape may ask for a few (`/metrics?name[]=`)."""
        for family in (*_LEADING, *_ALWAYS):
            yield _metric(family)

    def collect(self) -> Iterator[Metric]:
        leads = self.leads()
        yield _gauge(LEADER, {(): leads})
        if leads:
            yield from self._sums()
            yield _gauge(QUEUE_DEPTH, {(): self._queue.depth})
            yield _gauge(QUEUE_WORKING, {(): self._queue.working})
            yield _gauge(QUEUE_SCHEDULED, {(): self._queue.scheduled})
        yield _gauge(WATCH_AGE, {(plural,): age for plural, age in self._watches.ages().items()})
        silent = self.silent()
        yield _gauge(WATCH_SILENT, {(stream,): stream in silent for stream in self.streams})
        yield _gauge(BUILD, {(build_version(),): 1})

    def _sums(self) -> Iterator[Metric]:
        counts = self._jobs.phases()
        gpus: Tally[tuple[str, str]] = Tally()
        for key, figures in self._jobs.figures():
            gpus[key.kind, figures.phase] += figures.gpus
        pairs = [(kind, phase) for kind in JOBS for phase in Phase]
        yield _gauge(JOB_COUNT, {pair: counts.get(pair, 0) for pair in pairs})
        yield _gauge(GPU_COUNT, {pair: gpus.get(pair, 0) for pair in pairs})
        yield _gauge(HIDDEN_JOBS, {(): max(0, len(self._jobs.figures()) - self._most_jobs)})


class _JobCollector(Collector):
    """The series of single jobs: by far the most, and a collector of their own, so that who does not ask for them does
    not make the operator write them."""

    def __init__(self, jobs: JobRegistry, most_jobs: int) -> None:
        self._jobs = jobs
        self._most_jobs = most_jobs
        self.leads: Callable[[], bool] = lambda: True

    def describe(self) -> Iterator[Metric]:
        for family in JOB_FAMILIES:
            yield _metric(family)

    def collect(self) -> Iterator[Metric]:
        if not self.leads():
            return
        shown = shown_jobs(self._jobs.figures(), self._most_jobs)
        for family in JOB_FAMILIES:
            metric = _metric(family)
            for key, figures in shown:
                for labels, value in samples(family, figures):
                    metric.add_metric([*key, *labels], value)
            yield metric


def _metric(family: Family) -> CounterMetricFamily | GaugeMetricFamily:
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    return made(family.name, family.documentation, labels=family.labels)


def _gauge(family: Family, values: dict[tuple[str, ...], float]) -> Metric:
    metric = _metric(family)
    for labels, value in values.items():
        metric.add_metric(list(labels), float(value))
    return metric


def build_version() -> str:
    """Version of the installed distribution; `unknown` when run from a source tree."""
    try:
        return version("plumbline")
    except PackageNotFoundError:
        return "unknown"
