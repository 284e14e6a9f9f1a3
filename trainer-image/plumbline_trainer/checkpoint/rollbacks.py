"""Going back to a healthy checkpoint: which one, what is remembered of it, and that a crash in the middle is harmless.

    <checkpoints>/rollbacks.json     the rollbacks of the run, oldest first

A rollback is written down before anything is deleted. Whoever starts after that, in this process or after a crash,
deletes the checkpoints that it gave up, marks it as done and goes on; until then no checkpoint is written, so all that
is newer than the one that was chosen is what was given up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from plumbline_api.guardrails import Guardrail
from plumbline_api.status import RollbackStatus
from plumbline_trainer.checkpoint.durable import disk_errors, flush
from plumbline_trainer.checkpoint.store import CheckpointStore
from plumbline_trainer.data.seeds import derive_seed
from plumbline_trainer.failures import CheckpointUnreadable

JOURNAL = "rollbacks.json"
START = 0
"""Where a run goes back to that has no healthy checkpoint: the model as it was at the start."""

SEEDS = 2**32
"""Seeds of a run are below this."""


@dataclass(frozen=True)
class Rollback:
    """One return to a healthy checkpoint."""

    number: int
    """From 1, over the whole run."""

    signal: str
    from_step: int
    to_step: int
    """The checkpoint that the run goes on from; `START` for none."""

    time: str
    """ISO 8601."""

    learning_rate_factor: float
    new_order: bool
    done: bool = False
    """Whether the checkpoints that it gave up are deleted."""

    @property
    def status(self) -> RollbackStatus:
        """As the status report has it."""
        return RollbackStatus(
            number=self.number,
            signal=self.signal,
            from_step=self.from_step,
            to_step=self.to_step,
            time=datetime.fromisoformat(self.time),
        )


class RolledBack(Exception):
    """The run is to start over from the checkpoint that the rollback names, which is written down. Not a failure."""

    def __init__(self, rollback: Rollback, reason: str) -> None:
        super().__init__(reason)
        self.rollback = rollback


class RollbackJournal:
    """The rollbacks of the run whose checkpoints are in a store. Used by one process."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._path = store.directory / JOURNAL

    def read(self) -> list[Rollback]:
        """All rollbacks, oldest first. Raises `CheckpointUnreadable`: without them a run would repeat what failed."""
        try:
            return [Rollback(**entry) for entry in json.loads(self._path.read_bytes())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise CheckpointUnreadable(f"{self._path} is not a list of rollbacks: {error}") from error

    def add(self, guardrail: Guardrail, from_step: int, sound_until: int) -> Rollback:
        """Decides where the run goes back to, and writes it down.

        That is the newest verified checkpoint of a step up to `sound_until` in whose time no guardrail with a rollback
        was broken.
        """
        assert guardrail.rollback is not None
        known = self.read()
        target = self._store.newest_matching(sound_until, _is_sound)
        rollback = Rollback(
            number=len(known) + 1,
            signal=guardrail.signal,
            from_step=from_step,
            to_step=START if target is None else target,
            time=datetime.now(UTC).isoformat(),
            learning_rate_factor=guardrail.rollback.learning_rate_factor,
            new_order=guardrail.rollback.new_order,
        )
        self._write([*known, rollback])
        return rollback

    def settle(self) -> list[Rollback]:
        """Deletes what the last rollback gave up, unless that is done; returns all rollbacks."""
        known = self.read()
        if known and not known[-1].done:
            self._store.remove_after(known[-1].to_step)
            known[-1] = replace(known[-1], done=True)
            self._write(known)
        return known

    def _write(self, rollbacks: Sequence[Rollback]) -> None:
        temporary = self._path.with_name(f".{JOURNAL}.partial")
        with disk_errors(f"writing {self._path}"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps([asdict(rollback) for rollback in rollbacks], indent=2))
            flush(temporary)
            temporary.replace(self._path)
            flush(self._path.parent)


def learning_rate_factor(rollbacks: Sequence[Rollback]) -> float:
    """What the learning rate is multiplied by after these rollbacks."""
    return math.prod(rollback.learning_rate_factor for rollback in rollbacks)


def order_seed(seed: int, rollbacks: Sequence[Rollback]) -> int | None:
    """The seed of order and sampling after these rollbacks; None for that of the configuration, `seed`."""
    renewals = [rollback.number for rollback in rollbacks if rollback.new_order]
    return derive_seed(seed, "rollback", renewals[-1]) % SEEDS if renewals else None


def protected(states: Mapping[int, Mapping[str, Any]], step: int, window: int) -> Collection[int]:
    """The steps of checkpoints that retention must leave after `step`, so that a rollback finds a healthy one.

    `states` has the state of every checkpoint. One that is older than the window may be returned to; the oldest sound
    one inside of it will be when the window has passed. Two are enough, however short the interval of checkpoints is.
    """
    sound = sorted(number for number, state in states.items() if _is_sound(state))
    outside = [number for number in sound if number <= step - window]
    inside = [number for number in sound if number > step - window]
    kept = [*outside[-1:], *inside[:1]]
    best = [state["step"] for number in kept if (state := states[number].get("best")) is not None]
    return frozenset([*kept, *best])


def _is_sound(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint may be returned to; of one that does not say it is not known."""
    return bool(state.get("health", {}).get("sound"))
