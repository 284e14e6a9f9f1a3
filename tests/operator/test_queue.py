"""The work queue: nothing is lost, nothing runs twice at once, failures come back later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from plumbline_operator import queue as queue_module
from plumbline_operator.__main__ import is_outage
from plumbline_operator.api import ApiError
from plumbline_operator.queue import WorkQueue


async def worked(
    queue: WorkQueue[str], work: Callable[[str], Awaitable[None]], done: asyncio.Event, workers: int = 3
) -> None:
    """Runs the queue until `done`."""
    task = asyncio.create_task(queue.run(workers, work))
    try:
        await asyncio.wait_for(done.wait(), 10)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_waiting_key_is_there_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(5):
        queue.add("a")
    assert queue.depth == 1


async def test_a_key_added_while_it_is_worked_on_is_worked_on_again_and_never_twice_at_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done, active, runs = asyncio.Event(), 0, 0

    async def work(key: str) -> None:
        nonlocal active, runs
        active, runs = active + 1, runs + 1
        assert active == 1
        if runs == 1:
            queue.add(key)
            queue.add(key)
        for _ in range(5):
            await asyncio.sleep(0)
        active -= 1
        if runs == 2:
            done.set()

    queue.add("a")
    await worked(queue, work, done)
    assert (runs, queue.depth) == (2, 0)


async def test_a_worker_is_free_until_there_are_as_many_keys() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert not queue.has_free_worker, "nobody works yet"
    started, done, end = asyncio.Semaphore(0), asyncio.Event(), asyncio.Event()

    async def work(_: str) -> None:
        started.release()
        await end.wait()

    async def check() -> None:
        for key in "ab":
            queue.add(key)
            await started.acquire()
        assert queue.has_free_worker
        queue.add("c")
        assert not queue.has_free_worker, "it is promised to c"
        await started.acquire()
        assert not queue.has_free_worker
        end.set()
        while queue.working:
            await asyncio.sleep(0)
        assert queue.has_free_worker
        done.set()

    checking = asyncio.create_task(check())
    await worked(queue, work, done)
    await checking


async def order_of(queue: WorkQueue[str], keys: int) -> list[str]:
    """What one worker takes, in order."""
    taken: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        taken.append(key)
        if len(taken) == keys:
            done.set()

    await worked(queue, work, done, workers=1)
    return taken


async def test_what_was_heard_of_goes_first_and_what_is_due_is_not_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for number in range(3):
        queue.add_routine(f"due {number}")
    for number in range(8):
        queue.add(f"heard {number}")
    heard = [f"heard {number}" for number in range(8)]
    assert await order_of(queue, 11) == [*heard[:3], "due 0", *heard[3:6], "due 1", *heard[6:], "due 2"]


async def test_a_key_that_is_due_moves_up_when_it_is_heard_of_and_is_there_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in "abc":
        queue.add_routine(key)
    queue.add("c")
    queue.add_routine("c")
    assert queue.depth == 3
    assert await order_of(queue, 3) == ["c", "a", "b"]
    assert queue.depth == 0
    queue.add_routine("c")  # its old place in line has been passed over or is taken: either way it is worked on once
    assert await order_of(queue, 1) == ["c"]
    assert queue.depth == 0


async def test_a_slow_key_holds_up_no_other() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done, release = asyncio.Event(), asyncio.Event()

    async def work(key: str) -> None:
        if key == "slow":
            await release.wait()
        else:
            done.set()

    queue.add("slow")
    queue.add("quick")
    await worked(queue, work, done)


async def test_a_failed_key_comes_back(monkeypatch) -> None:
    monkeypatch.setattr(queue_module, "FIRST_BACKOFF_SECONDS", 0.01)
    queue: WorkQueue[str] = WorkQueue()
    done, runs = asyncio.Event(), 0

    async def work(key: str) -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise RuntimeError("the API server hiccups")
        done.set()

    queue.add("a")
    await worked(queue, work, done)
    assert runs == 4


def test_backoff_doubles_with_jitter_up_to_two_minutes_and_is_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(random_source=random.Random(1))
    ceilings = [min(120.0, 0.5 * 2**failures) for failures in range(12)]
    delays = [queue.backoff("a") for _ in ceilings]
    assert all(ceiling / 2 <= delay <= ceiling for delay, ceiling in zip(delays, ceilings, strict=True))
    queue.forget("a")
    assert queue.backoff("a") <= 0.5


def test_an_outage_of_the_api_server_holds_no_key_up_for_longer_than_ten_seconds() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert max(queue.backoff("a", outage=True) for _ in range(40)) <= 10
    assert queue.backoff("a") >= 60, "a failure of the key itself"


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (ApiError(503, "ServiceUnavailable", ""), True),
        (ApiError(409, "Conflict", ""), True),
        (aiohttp.ClientConnectionError("refused"), True),
        (TimeoutError(), True),
        (ApiError(422, "Invalid", ""), False),
        (KeyError("phase"), False),
    ],
)
def test_an_outage_is_what_says_nothing_about_the_job(error: Exception, outage: bool) -> None:
    assert is_outage(error) == outage


async def test_work_that_fails_is_told_apart_by_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "FIRST_BACKOFF_SECONDS", 1000)
    monkeypatch.setattr(queue_module, "LONGEST_OUTAGE_BACKOFF_SECONDS", 0.01)
    queue: WorkQueue[str] = WorkQueue(is_outage=lambda error: isinstance(error, ConnectionError))
    done, runs = asyncio.Event(), 0

    async def work(key: str) -> None:
        nonlocal runs
        runs += 1
        if runs < 10:
            raise ConnectionError("refused")
        done.set()

    queue.add("a")
    await worked(queue, work, done)


async def test_timers_fire_in_order_and_an_earlier_one_wins() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done, order = asyncio.Event(), []

    async def work(key: str) -> None:
        order.append(key)
        if len(order) == 2:
            done.set()

    queue.add_after("late", 0.2)
    queue.add_after("early", 30)
    queue.add_after("early", 0.05)
    queue.add_after("early", 60)
    assert queue.scheduled == 2
    await worked(queue, work, done)
    assert order == ["early", "late"]
    assert queue.scheduled == 0


async def test_a_forgotten_timer_does_not_fire() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done, seen = asyncio.Event(), []

    async def work(key: str) -> None:
        seen.append(key)
        done.set()

    queue.add_after("gone", 0.01)
    queue.forget("gone")
    queue.add_after("there", 0.1)
    await worked(queue, work, done)
    assert seen == ["there"]


async def test_an_expected_failure_is_told_in_one_line_and_another_with_its_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "FIRST_BACKOFF_SECONDS", 0.01)
    queue: WorkQueue[str] = WorkQueue(expected=(ConnectionError,))
    done = asyncio.Event()
    failures = [ConnectionError("refused"), KeyError("phase")]

    async def work(key: str) -> None:
        if not failures:
            return done.set()
        raise failures.pop(0)

    queue.add("a")
    await worked(queue, work, done)
    expected, unexpected = caplog.records
    assert (expected.levelname, expected.exc_info, vars(expected)["error"]) == (
        "WARNING",
        None,
        "ConnectionError: refused",
    )
    assert unexpected.exc_info is not None
