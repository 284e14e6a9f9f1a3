"""The work queue: keys, one reconciliation of a key at a time, backoff for each key, one timer wheel.

The meaning is that of client-go's rate-limited work queue: a key that is added while it waits is there once; a key
that is added while it is worked on is worked on again afterwards. A key that is due later sits in one heap that a
single task watches, so a thousand deadlines cost a thousand heap entries and no tasks.

Keys of which something was just heard go before those that are merely due, of which thousands may be; but of the keys
that workers take, one in `ROUTINE_SHARE` is one that is due, however much there is to hear.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 120.0
ROUTINE_SHARE = 4
LONGEST_OUTAGE_BACKOFF_SECONDS = 10.0
"""For failures that end by themselves and for all keys at once: nobody tells a key that its server is back."""


class WorkQueue(Generic[Key]):
    """Keys to work on. Use from one event loop."""

    def __init__(
        self,
        *,
        expected: tuple[type[Exception], ...] = (),
        is_outage: Callable[[Exception], bool] = lambda _: False,
        random_source: random.Random | None = None,
    ) -> None:
        """`expected` failures of work, such as a server that does not answer, are logged in one line; those that are
        an outage of others and no matter of the key have a shorter limit of their backoff."""
        self._expected = expected
        self._is_outage = is_outage
        self._heard: OrderedDict[Key, None] = OrderedDict()
        self._routine: OrderedDict[Key, None] = OrderedDict()
        """Each key waits in one of the two, once, in its order."""
        self._working: set[Key] = set()
        self._dirty: dict[Key, bool] = {}
        """Added while they are worked on; whether that is routine."""
        self._taken = 0
        self._failures: dict[Key, int] = {}
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._available = asyncio.Semaphore(0)
        self._timer_changed = asyncio.Event()
        self._random = random_source or random.Random()
        self._workers = 0

    @property
    def depth(self) -> int:
        """Keys that are ready and that no worker has taken."""
        return len(self._heard) + len(self._routine)

    @property
    def working(self) -> int:
        return len(self._working)

    @property
    def has_free_worker(self) -> bool:
        """Whether a key that is added now is worked on at once."""
        return self.depth + self.working < self._workers

    @property
    def scheduled(self) -> int:
        """Keys that are due later."""
        return len(self._due)

    def add(self, key: Key, *, routine: bool = False) -> None:
        """Work on the key as soon as a worker is free; a `routine` one may wait for others."""
        if key in self._working:
            self._dirty[key] = routine and self._dirty.get(key, True)
        elif key not in self._heard and key not in self._routine:
            (self._routine if routine else self._heard)[key] = None
            self._available.release()
        elif key in self._routine and not routine:
            del self._routine[key]
            self._heard[key] = None

    def add_routine(self, key: Key) -> None:
        """`add` of a key that may wait for others."""
        self.add(key, routine=True)

    def add_after(self, key: Key, seconds: float) -> None:
        """Work on the key after so many seconds, or earlier if it is already due earlier."""
        if seconds <= 0:
            self.add_routine(key)
            return
        due = time.monotonic() + seconds
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, next(self._order), key))
        self._timer_changed.set()

    def forget(self, key: Key) -> None:
        """Drop the key's backoff and timer; its object is gone."""
        self._failures.pop(key, None)
        self._due.pop(key, None)

    async def run(self, workers: int, work: Callable[[Key], Awaitable[None]]) -> None:
        """Runs until cancelled. `work` raising means that the key comes back after its backoff."""
        self._workers = workers
        async with asyncio.TaskGroup() as group:
            group.create_task(self._turn_timers(), name="queue-timers")
            for number in range(workers):
                group.create_task(self._work(work), name=f"queue-worker-{number}")

    async def _work(self, work: Callable[[Key], Awaitable[None]]) -> None:
        while True:
            await self._available.acquire()
            key = self._take()
            self._working.add(key)
            try:
                await work(key)
                self._failures.pop(key, None)
            except Exception as error:
                delay = self.backoff(key, outage=self._is_outage(error))
                about = {"key": str(key), "retry_seconds": round(delay, 3), "error": f"{type(error).__name__}: {error}"}
                if isinstance(error, self._expected):
                    logger.warning("Reconciliation failed", extra=about)
                else:
                    logger.exception("Reconciliation failed", extra=about)
                self.add_after(key, delay)
            finally:
                self._working.discard(key)
                if key in self._dirty:
                    self.add(key, routine=self._dirty.pop(key))

    def _take(self) -> Key:
        """The key that is next; there is one."""
        self._taken += 1
        due = bool(self._routine) and (not self._heard or self._taken % ROUTINE_SHARE == 0)
        key, _ = (self._routine if due else self._heard).popitem(last=False)
        return key

    def backoff(self, key: Key, *, outage: bool = False) -> float:
        """Seconds to wait after one more failure of the key: doubles up to a limit, with half of it at random."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        longest = LONGEST_OUTAGE_BACKOFF_SECONDS if outage else LONGEST_BACKOFF_SECONDS
        ceiling = min(longest, FIRST_BACKOFF_SECONDS * 2 ** min(failures, 16))
        return ceiling / 2 + self._random.uniform(0, ceiling / 2)

    async def _turn_timers(self) -> None:
        while True:
            self._timer_changed.clear()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                due, _, key = heapq.heappop(self._timers)
                # An entry counts only if it is the key's present one: keys are rescheduled and forgotten.
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add_routine(key)
            delay = self._timers[0][0] - now if self._timers else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._timer_changed.wait(), delay)
