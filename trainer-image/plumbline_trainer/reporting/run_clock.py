"""Where the time of this process goes, and how much of it the run as it is now is made of.

Time is charged to a state when the state ends or a step is done, so that what is reported changes only when something
happens; whoever reads it charges the time since then to the state that the report names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from plumbline_api.status import RunTime

State = Literal["starting", "evaluating", "training", "checkpointing", "exporting", "stopping", "done"]

_CHARGED_TO: dict[State, str] = {
    "starting": "starting",
    "training": "working",
    "evaluating": "working",
    "exporting": "working",
    "checkpointing": "checkpointing",
    "stopping": "stopping",
    "done": "stopping",
}
"""State of the trainer -> field of `RunTime`."""


class RunClock:
    """Seconds by state since the clock was made."""

    def __init__(self, now: Callable[[], float] = time.monotonic, started: datetime | None = None) -> None:
        self._now = now
        self._started = started or datetime.now(UTC)
        self._last = now()
        self._state: State = "starting"
        self._seconds = dict.fromkeys(("starting", "working", "checkpointing", "stopping"), 0.0)
        self._restored: float | None = None
        self._working_before = 0.0
        self._saved: float | None = None

    def enter(self, state: State) -> None:
        """The trainer's state is `state` from now on."""
        self.settle()
        self._state = state

    def settle(self) -> None:
        """Charges the time up to now."""
        now = self._now()
        self._seconds[_CHARGED_TO[self._state]] += now - self._last
        self._last = now

    def restored(self, useful: float) -> None:
        """The run was restored, or began; `useful` seconds of work are behind its state."""
        self._restored = self._saved = useful
        self._working_before = self._seconds["working"]

    def saved(self) -> None:
        """All that was done is in a checkpoint."""
        self._saved = self.useful

    @property
    def useful(self) -> float | None:
        """Seconds of work behind the present state of the run; None until it is restored."""
        return None if self._restored is None else self._restored + self._seconds["working"] - self._working_before

    def report(self) -> RunTime:
        """As of the last change."""
        useful, saved = (None if value is None else round(value, 3) for value in (self.useful, self._saved))
        seconds = {name: round(value, 3) for name, value in self._seconds.items()}
        return RunTime(started=self._started, state=self._state, useful=useful, saved=saved, **seconds)
