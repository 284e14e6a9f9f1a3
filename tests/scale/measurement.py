"""The measurements: requests in a job's life, many jobs at once, one job more, and many jobs that are there already."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.operator.live_cluster import GROUP, OperatorProcess
from tests.scale.creation import Births, create_job, create_jobs, watch_births
from tests.scale.operator_figures import Figures
from tests.scale.seeding import TEMPLATE, Template, seed
from tests.scale.world import SHORT, ScaleWorld

Section = dict[str, Any]
Say = Callable[[str], None]

LATER_PROGRESS = ("--progress-interval", "3600")
"""So that a short life has no writes that only tell of progress."""
PAUSE_SECONDS = 0.25
"""Between two jobs that are created one by one."""
POLL_SECONDS = 1.0
"""Between two looks at those of the operator's metrics that tell how far it is."""
SCRAPE_SECONDS = 30.0
"""Between two scrapes of all its metrics, as with the chart's ServiceMonitor."""
QUIET_SECONDS = 6.0
"""For so long no key waits for a worker when an operator is said to have converged."""


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least value that at least this share of the sorted values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@asynccontextmanager
async def running_operator(
    world: ScaleWorld, directory: Path, workers: int, *flags: str
) -> AsyncIterator[OperatorProcess]:
    """The operator with the chart's rights, ready."""
    operator = OperatorProcess(world.operator_kubeconfig, directory / "operator.log", "--workers", str(workers), *flags)
    operator.start()
    try:
        async with asyncio.timeout(120):
            while not operator.ready():
                await asyncio.sleep(0.05)
        scraping = asyncio.create_task(_scrape(operator))
        try:
            yield operator
            if scraping.done():
                scraping.result()  # which is why there is none
        finally:
            scraping.cancel()
    finally:
        if operator.alive:
            operator.kill()


async def measure_life(world: ScaleWorld, directory: Path, workers: int, jobs: int, say: Say) -> Section:
    """API writes from creation to Complete, of jobs that succeed in their first attempt."""
    async with running_operator(world, directory, workers, *LATER_PROGRESS) as operator, world.session() as session:
        figures, births = Figures(operator), Births()
        before, reads_before = figures.writes(), sum(figures.requests().values())
        names = [f"life-{number}" for number in range(jobs)]
        await create_jobs(session, births, names, [SHORT])
        await _all_complete(session, SHORT, jobs)
        await _quiet(figures, 60)
        writes = figures.writes() - before
        total = sum(writes.values())
        reads = sum(figures.requests().values()) - reads_before - total
    say(f"writes in a job's life: {total / jobs:.1f}, reads {reads / jobs:.1f}")
    return {
        "jobs": jobs,
        "writes_a_life": round(total / jobs, 2),
        "reads_a_life": round(reads / jobs, 2),
        "writes_by_verb_and_resource": {
            f"{verb} {resource}": round(count / jobs, 2) for (verb, resource), count in sorted(writes.items())
        },
    }


async def measure_burst(world: ScaleWorld, directory: Path, workers: int, jobs: int, more: int, say: Say) -> Section:
    """Many jobs at once, then some more, one after the other, while all of them run."""
    async with running_operator(world, directory, workers) as operator, world.session() as session:
        figures, births, watching = Figures(operator), Births(), asyncio.Event()
        watcher = asyncio.create_task(watch_births(session, births, watching))
        await watching.wait()
        names = [f"burst-{number:05}" for number in range(jobs)]
        before = figures.processor_seconds()
        started = time.monotonic()
        await create_jobs(session, births, names, world.long_namespaces)
        submitted = time.monotonic() - started
        await births.wait_for(names, 600)
        seconds = max(births.complete.values()) - started
        busy = figures.processor_seconds() - before
        say(f"{jobs} jobs at once: {60 * jobs / seconds:.0f} jobs/min to children, {seconds:.1f} s")
        latencies = births.latencies(names)
        burst = {
            "jobs": jobs,
            "seconds_to_submit": round(submitted, 2),
            "seconds_to_children": round(seconds, 2),
            "jobs_a_minute": round(60 * jobs / seconds, 1),
            "job_to_children_seconds": _quantiles(latencies),
            "operator_processor_seconds": round(busy, 2),
            "pods_seen": births.pods,
        }
        await _running(figures, jobs, 300)
        await _quiet(figures, 300)
        later = [f"later-{number:04}" for number in range(more)]
        for number, name in enumerate(later):
            await create_job(session, births, name, world.long_namespaces[number % len(world.long_namespaces)])
            await asyncio.sleep(PAUSE_SECONDS)
        await births.wait_for(later, 120)
        one_more = _quantiles(births.latencies(later))
        say(f"one job more while {jobs} run: p50 {one_more['p50']} s, p99 {one_more['p99']} s")
        watcher.cancel()
        return {
            "at_once": burst,
            "one_more": {"jobs_that_run": jobs, "jobs": more, "job_to_children_seconds": one_more},
            "duplicate_pods": births.pods - jobs - more,
            "operator_peak_mebibytes": round(figures.peak_mebibytes(), 1),
        }


async def seed_jobs(world: ScaleWorld, directory: Path, jobs: int, say: Say) -> None:
    """Writes so many running jobs, by way of one that the operator takes there."""
    namespace = world.long_namespaces[0]
    async with running_operator(world, directory, 4) as operator, world.session() as session:
        await create_job(session, Births(), TEMPLATE, namespace)
        await _running(Figures(operator), 1, 60)
        await _quiet(Figures(operator), 60)
        operator.kill()
        started = time.monotonic()
        await seed(session, await Template.read(session, namespace), jobs - 1, world.long_namespaces)
        say(f"{jobs} running jobs written in {time.monotonic() - started:.0f} s")


async def measure_alive(
    world: ScaleWorld, directory: Path, workers: int, jobs: int, say: Say, *, steady_seconds: float = 20.0
) -> Section:
    """An operator starts where thousands of jobs run, works on, is killed, and is started again."""
    starts = []
    steady: Section = {}
    for start in range(2):
        started = time.monotonic()
        async with running_operator(world, directory, workers) as operator:
            figures = Figures(operator)
            ready = time.monotonic() - started
            await _converged(figures, jobs, 240)
            seconds = time.monotonic() - started - QUIET_SECONDS
            requests = figures.requests()
            starts.append(
                {
                    "seconds_to_ready": round(ready, 2),
                    "seconds_to_converged": round(seconds, 2),
                    "processor_seconds": round(figures.processor_seconds(), 2),
                    "reads": sum(requests.values()) - sum(figures.writes().values()),
                    "writes": sum(figures.writes().values()),
                    "peak_mebibytes": round(figures.peak_mebibytes(), 1),
                }
            )
            say(f"start {start + 1}: converged over {jobs} jobs in {seconds:.1f} s, {starts[-1]}")
            if start == 0:
                before = figures.writes()
                share = await asyncio.to_thread(figures.share_of_a_core, steady_seconds)
                writes = sum((figures.writes() - before).values())
                steady = {
                    "seconds": steady_seconds,
                    "share_of_a_core": round(share, 3),
                    "writes_a_second": round(writes / steady_seconds, 1),
                    "resident_mebibytes": round(figures.resident_mebibytes(), 1),
                    "peak_mebibytes": round(figures.peak_mebibytes(), 1),
                }
                say(f"while they run: {steady}")
    return {"jobs": jobs, "starts": starts, "steady": steady}


async def _scrape(operator: OperatorProcess) -> None:
    """What a Prometheus asks of the operator as long as it lives."""
    while operator.alive:
        try:
            await asyncio.to_thread(Figures(operator).scrape)
        except OSError:
            if operator.alive:
                raise
        await asyncio.sleep(SCRAPE_SECONDS)


async def _all_complete(session: aiohttp.ClientSession, namespace: str, jobs: int) -> None:
    async with asyncio.timeout(300):
        while True:
            async with session.get(f"{GROUP}/namespaces/{namespace}/preferencejobs") as response:
                items = (await response.json())["items"]
            phases = [(item.get("status") or {}).get("phase") for item in items]
            assert "Failed" not in phases
            if phases.count("Complete") == jobs:
                return
            await asyncio.sleep(0.5)


async def _running(figures: Figures, jobs: int, timeout: float) -> None:
    async with asyncio.timeout(timeout):
        while figures.running_jobs() < jobs:
            await asyncio.sleep(POLL_SECONDS)


async def _quiet(figures: Figures, timeout: float) -> None:
    """No key has waited for a worker for a while: none that works takes long, and new ones are taken at once."""
    async with asyncio.timeout(timeout):
        since = time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            await asyncio.sleep(POLL_SECONDS)
            if figures.waiting() > 4:
                since = time.monotonic()


async def _converged(figures: Figures, jobs: int, timeout: float) -> None:
    """Every job was reconciled since the start, and none waits."""
    async with asyncio.timeout(timeout):
        while not figures.has_converged(jobs):
            await asyncio.sleep(POLL_SECONDS)
    await _quiet(figures, timeout)


def _quantiles(ordered: Sequence[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "largest": 1.0}
    return {name: round(quantile(ordered, share), 3) for name, share in shares.items()}
