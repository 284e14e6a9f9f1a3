"""Learning-rate schedules: pure functions from (step, steps in all) to a factor of the optimizer's peak rate.

Steps count from 0. Warm-up takes the first `round(warmupFraction * steps)` steps and reaches the peak in its last one,
so that no step is spent on a rate of zero; a decay reaches its final fraction in the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from plumbline_api.methods.optimization import Constant, Cosine, Linear, Schedule, WarmupStableDecay
from plumbline_trainer.registry import Registry

Shape = Callable[[Any, int, int, int], float]
"""(parameters, step, steps, warm-up steps) -> factor, for steps after the warm-up."""

SCHEDULES: Registry[Shape] = Registry(Schedule)


def learning_rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Factor of the peak learning rate in optimizer step `step` (from 0) of `steps`; between 0 and 1."""
    warmup = min(round(schedule.warmup_fraction * steps), steps)
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES.of(schedule)(schedule, step, steps, warmup)


@SCHEDULES.implements(Constant)
def constant(_: Constant, step: int, steps: int, warmup: int) -> float:
    """1 after warm-up."""
    return 1.0


@SCHEDULES.implements(Linear)
def linear(schedule: Linear, step: int, steps: int, warmup: int) -> float:
    """A straight line from 1 in the first step after warm-up to the final fraction in the last step."""
    return _between(schedule.final_fraction, 1.0 - _decay_time(step, steps, warmup))


@SCHEDULES.implements(Cosine)
def cosine(schedule: Cosine, step: int, steps: int, warmup: int) -> float:
    """Half a cosine from 1 to the final fraction (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, one cycle)."""
    return _between(schedule.final_fraction, _half_cosine(_decay_time(step, steps, warmup)))


@SCHEDULES.implements(WarmupStableDecay)
def warmup_stable_decay(schedule: WarmupStableDecay, step: int, steps: int, warmup: int) -> float:
    """1 until the last `round(decayFraction * steps)` steps, which fall to the final fraction (Hu et al. 2024,
    arXiv:2404.06395, sec. 4.2)."""
    decay = min(round(schedule.decay_fraction * steps), steps - warmup)
    decayed = step - (steps - decay) + 1
    if decayed <= 0:
        return 1.0
    time = decayed / decay
    remaining = {"linear": 1.0 - time, "cosine": _half_cosine(time), "sqrt": 1.0 - math.sqrt(time)}
    return _between(schedule.final_fraction, remaining[schedule.decay_shape])


def _decay_time(step: int, steps: int, warmup: int) -> float:
    """0 in the first step after warm-up, 1 in the last step; 0 where that is one and the same step."""
    span = steps - 1 - warmup
    return (step - warmup) / span if span > 0 else 0.0


def _half_cosine(time: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * time))


def _between(final: float, remaining: float) -> float:
    return final + (1.0 - final) * remaining
