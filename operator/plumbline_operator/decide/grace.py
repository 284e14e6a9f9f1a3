"""How long pods have between SIGTERM and SIGKILL: long enough to save (pure)."""

from __future__ import annotations

import math

from plumbline_api.run_policy import RunPolicy
from plumbline_operator.snapshot import GRACE_PERIOD_SECONDS

LONGEST_SECONDS = 86_400
SAFETY = 2.0
"""Times the longest save so far: the disk may be slower next time, and the step in flight comes to its end first."""

_STEPS = (10, 20, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600, 7200, 14_400, 28_800, 57_600, LONGEST_SECONDS)


def longest_save(known: float | None, measured: float | None) -> float | None:
    """The longest save so far, in two significant digits: figures that flicker would make every status differ."""
    if measured is None:
        return known
    rounded = float(f"{measured:.2g}")
    return rounded if known is None else max(known, rounded)


def needed_seconds(save_seconds: float) -> int:
    """The grace period that a measured save asks for, rounded up so that small differences change nothing."""
    wanted = math.ceil(save_seconds * SAFETY)
    return next((step for step in _STEPS if step >= wanted), LONGEST_SECONDS)


def grace_seconds(policy: RunPolicy, save_seconds: float | None) -> int:
    """What the pods of the next attempt get: what the spec says, and otherwise what saving was measured to need."""
    if policy.termination_grace_period_seconds is not None:
        return policy.termination_grace_period_seconds
    return max(GRACE_PERIOD_SECONDS, needed_seconds(save_seconds)) if save_seconds is not None else GRACE_PERIOD_SECONDS


def grace_of_deletion(policy: RunPolicy, save_seconds: float | None) -> int | None:
    """The grace period of a deletion where it has to be longer than the pods' own, which is that of their start."""
    grace = grace_seconds(policy, save_seconds)
    if policy.termination_grace_period_seconds is not None or grace <= GRACE_PERIOD_SECONDS:
        return None
    return grace


def warning(policy: RunPolicy, save_seconds: float | None) -> str:
    """What to tell about a spec whose grace period is too short for a measured save; empty when it is not."""
    given = policy.termination_grace_period_seconds
    if given is None or save_seconds is None or save_seconds <= given:
        return ""
    return (
        f"runPolicy.terminationGracePeriodSeconds is {given}, and saving a checkpoint takes longer: a job that is"
        f" suspended or evicted loses its steps since the last one; {needed_seconds(save_seconds)} would be enough"
    )
