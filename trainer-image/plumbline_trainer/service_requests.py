"""Requests to a service over HTTP: what may pass when tried again, and many at once while the caller is polled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

RETRIED_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses after which the same request may succeed."""

_POLL_SECONDS = 0.1
_LONGEST_TEXT = 300


class PassingFailure(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait
        """Seconds that the server asked to wait."""


async def attempted(
    attempt: Callable[[], Awaitable[T]],
    attempts: int,
    backoff_seconds: float,
    on_failure: Callable[[PassingFailure], None] = lambda failure: None,
) -> T:
    """The result of the first attempt that does not end with a `PassingFailure`; raises the last of `attempts`.

    The pause after a failure doubles from `backoff_seconds` on, and is as long as the server asked for if that is more.
    """
    for number in range(1, attempts):
        try:
            return await attempt()
        except PassingFailure as failure:
            on_failure(failure)
            await asyncio.sleep(max(failure.wait, backoff_seconds * 2 ** (number - 1)))
    return await attempt()


async def finished(
    requests: Sequence[Awaitable[T]], poll: Callable[[], None], on_result: Callable[[T], None] = lambda result: None
) -> list[T]:
    """The results of all requests, in order; `on_result` gets each when it is there.

    `poll` is called about ten times a second. Whatever it, `on_result` or a request raises ends the other requests.
    """
    tasks = [asyncio.ensure_future(request) for request in requests]
    waiting = set(tasks)
    try:
        while waiting:
            poll()
            done, waiting = await asyncio.wait(waiting, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                on_result(task.result())
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait; dates are not read."""
    text = headers.get("retry-after", "")
    return float(text) if text.isdigit() else 0.0


def beginning(text: str) -> str:
    """The beginning of a text, on one line, as an error message quotes it."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 3] + "..."
