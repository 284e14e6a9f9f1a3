"""Seconds of the named parts of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds within to `phases[name]`."""
    started = time.perf_counter()
    yield
    phases[name] = phases.get(name, 0.0) + time.perf_counter() - started


def count_as(phases: dict[str, float], name: str, seconds: float, *, within: str) -> None:
    """Counts `seconds` that were measured inside the phase `within` as those of the phase `name`."""
    if seconds:
        phases[within] -= seconds
        phases[name] = phases.get(name, 0.0) + seconds
