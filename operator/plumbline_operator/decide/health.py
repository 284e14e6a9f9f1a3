"""Whether training goes well: the condition Healthy, from what the trainer's guardrails measure (pure).

The trainer sees every step and says what is beyond its bound; windows of steps therefore do not depend on how often the
operator asks. What is done about it at the very step, a rollback or the end of the run, is the trainer's as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from plumbline_api.conditions import Reason
from plumbline_api.guardrails import SIGNALS, Signal
from plumbline_api.status import Health, JobStatus, SignalHealth
from plumbline_operator.decide.conditions import Status

_GRAVEST_FIRST = ("Fail", "Rollback", "Suspend", "Warn")
SIGNALS_TOLD = 6
"""Broken signals that the message describes; the rest is in status.health."""


def merge_health(status: JobStatus, said: Health | None, *, last_words: bool = False) -> None:
    """Takes what the trainer says into the status, in place. Last words name the broken guardrails only."""
    if said is None:
        return
    if last_words and status.health is not None:
        broken = {(one.signal, one.action): one for one in said.signals}
        known = [
            broken.pop((one.signal, one.action), one.model_copy(update={"broken_since": None}))
            for one in status.health.signals
        ]
        said = said.model_copy(update={"signals": [*known, *broken.values()]})
    status.health = said


def healthy(health: Health | None) -> tuple[Status, Reason, str]:
    """Value, reason and message of the condition Healthy."""
    measured = [] if health is None else [one for one in health.signals if one.value is not None]
    broken = [] if health is None else [one for one in health.signals if one.broken_since is not None]
    if broken:
        broken.sort(key=_gravity)
        told = [describe(one) for one in broken[:SIGNALS_TOLD]]
        if len(broken) > SIGNALS_TOLD:
            told.append(f"and {len(broken) - SIGNALS_TOLD} more in status.health")
        return "False", _reason(broken[0]), "; ".join(told)
    if health is None or not measured:
        return "Unknown", Reason.NOT_MEASURED, "no window of steps is full yet"
    return "True", Reason.HEALTHY, "no signal that is measured is beyond its bound"


def describe(one: SignalHealth) -> str:
    """A broken signal in plain words. What flickers, its value, is in the status and not here."""
    signal = _signal(one)
    if signal is None:
        return f"{one.signal} is beyond its bound since step {one.broken_since}"
    if one.bound is None:
        return f"{one.signal}: {signal.measures} after step {one.broken_since}; {_answer(one)}"
    side = "below" if signal.below else "above"
    return (
        f"{one.signal}: {signal.measures}, over the last {one.window_steps} steps, is {side} {one.bound:g} "
        f"since step {one.broken_since}; {_answer(one)}"
    )


_ANSWERS: Mapping[str, str] = {
    "Warn": "this only warns",
    "Suspend": "the job is suspended for it",
    "Rollback": "the run goes back to its last healthy checkpoint for it",
    "Fail": "the job fails for it",
}


def _answer(one: SignalHealth) -> str:
    return _ANSWERS.get(one.action, one.action)


def _gravity(one: SignalHealth) -> int:
    return _GRAVEST_FIRST.index(one.action) if one.action in _GRAVEST_FIRST else len(_GRAVEST_FIRST)


def _reason(one: SignalHealth) -> Reason:
    signal = _signal(one)
    return Reason.NOT_MEASURED if signal is None else signal.reason


def _signal(one: SignalHealth) -> Signal | None:
    """None for a signal of a newer trainer."""
    return cast(Mapping[str, Signal], SIGNALS).get(one.signal)
