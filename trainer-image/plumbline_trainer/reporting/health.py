"""Whether training goes well: the guardrails of a run, evaluated after every step and every evaluation.

All ranks see the same metrics, so all of them come to the same verdict in the same step without asking each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plumbline_api.guardrails import NOT_FINITE, SIGNALS, Guardrail
from plumbline_api.status import Health, RollbackStatus, SignalHealth
from plumbline_trainer.reporting.health_measures import Measure, measure_of

_STRONGEST_FIRST = ("Fail", "Rollback", "Suspend", "Warn")


@dataclass(frozen=True)
class Verdict:
    """A guardrail that has just been broken."""

    guardrail: Guardrail
    message: str
    sound_until: int
    """The last step before the window in which it was broken: what is older is not suspected."""


@dataclass
class _Watch:
    """One guardrail at work."""

    guardrail: Guardrail
    measure: Measure | None
    """None for `notFinite`, which is not measured but met."""

    broken_since: int | None = None
    calm: int = 0
    """Checks in a row within the bound, while it is broken: it counts as mended after a window of them."""

    @property
    def key(self) -> str:
        """Names it in checkpoints: a state is taken up by the same guardrail only."""
        return f"{self.guardrail.signal}/{self.guardrail.action}/{self.guardrail.window_steps}"

    @property
    def value(self) -> float | None:
        return None if self.measure is None else self.measure.value

    def beyond(self) -> bool:
        value, bound = self.value, self.guardrail.bound
        if value is None or bound is None:
            return False
        return value < bound if SIGNALS[self.guardrail.signal].below else value > bound

    def check(self, step: int) -> bool:
        """Whether it is newly broken after `step` steps."""
        if self.beyond():
            self.calm = 0
            newly = self.broken_since is None
            self.broken_since = step if newly else self.broken_since
            return newly
        if self.broken_since is not None:
            self.calm += 1
            if self.calm >= (self.guardrail.window_steps or 1):
                self.broken_since, self.calm = None, 0
        return False

    def describe(self) -> str:
        guardrail, signal = self.guardrail, SIGNALS[self.guardrail.signal]
        side = "below" if signal.below else "above"
        return (
            f"guardrail {guardrail.signal}: {signal.measures} is {self.value:.4g} over the last "
            f"{guardrail.window_steps} steps, {side} the bound {guardrail.bound:g}"
        )


class HealthMonitor:
    """The guardrails of one run."""

    def __init__(self, guardrails: Sequence[Guardrail], score_name: str, rollouts: bool) -> None:
        """`guardrails` are resolved (`effective_guardrails`); see `measure_of` for the rest."""
        self._watches = [
            _Watch(one, None if one.signal == NOT_FINITE else measure_of(one, score_name, rollouts))
            for one in guardrails
        ]

    def step_done(self, step: int, metrics: Mapping[str, float]) -> list[Verdict]:
        """What was newly broken by optimizer step number `step` (from 1), the strongest action first."""
        for watch in self._watches:
            if watch.measure is not None:
                watch.measure.step(metrics)
        return self._check(step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> list[Verdict]:
        """What was newly broken by an evaluation after `step` steps."""
        for watch in self._watches:
            if watch.measure is not None:
                watch.measure.evaluated(metrics)
        return self._check(step, evaluation=True)

    def not_finite(self, step: int, what: str) -> Verdict:
        """The verdict on a step after `step` completed ones whose loss or gradient is not finite."""
        watch = next(watch for watch in self._watches if watch.guardrail.signal == NOT_FINITE)
        watch.broken_since = step
        return Verdict(watch.guardrail, f"guardrail {NOT_FINITE}: {what}", step)

    def forgive(self, guardrail: Guardrail) -> None:
        """Has a guardrail start over with an empty window: what broke it has been seen."""
        for watch in self._watches:
            if watch.guardrail == guardrail:
                watch.broken_since, watch.calm = None, 0
                if watch.measure is not None:
                    watch.measure.clear()

    @property
    def healthy(self) -> bool:
        """Whether no guardrail is broken."""
        return all(watch.broken_since is None for watch in self._watches)

    @property
    def sound(self) -> bool:
        """Whether none is broken that would have the run turn back: a checkpoint taken now may be returned to."""
        return all(watch.broken_since is None for watch in self._watches if watch.guardrail.action == "Rollback")

    @property
    def rollback_window(self) -> int | None:
        """The longest window after which the run may turn back; None where nothing turns it back."""
        windows = [one.guardrail.window_steps or 0 for one in self._watches if one.guardrail.action == "Rollback"]
        return max(windows, default=None)

    def report(self, rollbacks: Sequence[RollbackStatus] = ()) -> Health:
        """What the status report says."""
        signals = [
            SignalHealth(
                signal=watch.guardrail.signal,
                action=watch.guardrail.action,
                value=None if watch.value is None else float(f"{watch.value:.4g}"),
                bound=watch.guardrail.bound,
                window_steps=watch.guardrail.window_steps,
                broken_since=watch.broken_since,
            )
            for watch in self._watches
        ]
        last = rollbacks[-1] if rollbacks else None
        return Health(signals=signals, rollbacks=len(rollbacks), last_rollback=last)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; what a checkpoint keeps."""
        return {
            "healthy": self.healthy,
            "sound": self.sound,
            "watches": {
                watch.key: {
                    "broken_since": watch.broken_since,
                    "calm": watch.calm,
                    "measure": None if watch.measure is None else watch.measure.state(),
                }
                for watch in self._watches
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`. Guardrails that the checkpoint does not know start with empty windows."""
        for watch in self._watches:
            stored = state["watches"].get(watch.key)
            if stored is None:
                continue
            watch.broken_since, watch.calm = stored["broken_since"], stored["calm"]
            if watch.measure is not None:
                watch.measure.load(stored["measure"])

    def _check(self, step: int, *, evaluation: bool = False) -> list[Verdict]:
        broken = [
            Verdict(watch.guardrail, watch.describe(), max(0, step - (watch.guardrail.window_steps or 0)))
            for watch in self._watches
            # between two evaluations an evaluation changes no other measure, and would count a step twice
            if (not evaluation or watch.guardrail.signal == "overOptimisation") and watch.check(step)
        ]
        return sorted(broken, key=lambda verdict: _STRONGEST_FIRST.index(verdict.guardrail.action))
