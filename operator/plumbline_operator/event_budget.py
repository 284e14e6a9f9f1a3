"""Events are rate-limited: of each job and reason at most `MOST` in `WINDOW_SECONDS`.

A pod that comes and goes, or a trainer that warns of something new at every step, would fill the cluster's event store
and bury what matters. What is left out still stands in the status. Kept in memory: after a restart the operator may
tell a few events more, and that is all.
"""

from __future__ import annotations

from collections.abc import Iterable

from plumbline_operator.model import PostEvent, Step
from plumbline_operator.resources import JobKey

MOST = 10
WINDOW_SECONDS = 600.0

Told = dict[PostEvent, float]


class EventBudget:
    """Which events were told lately."""

    def __init__(self) -> None:
        self._told: dict[JobKey, Told] = {}

    def within(self, key: JobKey, steps: Iterable[Step], now: float) -> tuple[tuple[Step, ...], int]:
        """The steps without the events that are too many, and how many were left out. `now` in seconds of any clock
        that only goes forward. An event that is posted again, because what followed it failed, is the same event."""
        told = {event: time for event, time in self._told.get(key, {}).items() if now - time < WINDOW_SECONDS}
        kept: list[Step] = []
        left_out = 0
        for step in steps:
            if isinstance(step, PostEvent) and step not in told:
                if sum(event.reason == step.reason for event in told) >= MOST:
                    left_out += 1
                    continue
                told[step] = now
            kept.append(step)
        if told:
            self._told[key] = told
        else:
            self.forget(key)
        return tuple(kept), left_out

    def forget(self, key: JobKey) -> None:
        """The job is gone."""
        self._told.pop(key, None)
