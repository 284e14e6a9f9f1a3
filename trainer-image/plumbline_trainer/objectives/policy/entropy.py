"""Control of the policy's entropy: the coefficient of a step from the entropies of the steps before.

The term of a token's loss is -coefficient H, H the entropy of the policy's distribution over the vocabulary at that
token. What a controller measures is the mean of H over all tokens of a step, so a coefficient is the same for all
micro-batches and ranks, and follows from a small state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from plumbline_api.methods.entropy import (
    EntropyBand,
    EntropyBonus,
    EntropyConstraint,
    EntropyControl,
    EntropySmoothing,
    EntropyTarget,
)
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric

POLICY_ENTROPY = "policy_entropy"
"""Name of the metric whose value over a step is what a controller measures."""

LEAST_COEFFICIENT = 1e-8
"""A coefficient that changes by factors does not fall below this, so that it can come back."""


@dataclass(frozen=True)
class EntropyState:
    """What a controller carries from step to step."""

    coefficient: float
    """As adapted so far."""

    applied: float
    """What multiplies entropy in the present step: positive as a bonus, negative as a penalty."""

    recent: tuple[float, ...] = ()
    """Mean entropies of the last steps, oldest first, for a controller that compares with them."""

    steps: int = 0
    """Steps measured so far, for a controller with phases."""


Controller = Callable[[Any, EntropyState | None, float], EntropyState]
"""(parameters, state of the last step, its mean entropy) -> state of the next step; a state of None starts."""

CONTROLLERS: Registry[Controller] = Registry(EntropyControl)


def first_state(parameters: EntropyControl) -> EntropyState:
    """The state of the first step, before anything was measured."""
    return CONTROLLERS.of(parameters)(parameters, None, math.nan)


def next_state(parameters: EntropyControl, state: EntropyState, entropy: float) -> EntropyState:
    """The state of the step after one with a mean entropy of `entropy` nats a token."""
    return CONTROLLERS.of(parameters)(parameters, state, entropy)


def entropy_term(coefficient: float, tokens: PolicyTokens) -> tuple[Tensor, dict[str, Metric]]:
    """-coefficient H of every token [B, T], and the measured entropy. Raises `ValueError` without entropies."""
    if tokens.entropy is None:
        raise ValueError("control of entropy needs the entropies of the policy's distributions")
    inside = tokens.inside(tokens.entropy)
    return -coefficient * inside, {POLICY_ENTROPY: Metric.mean_of(inside, tokens.mask)}


@CONTROLLERS.implements(EntropyBonus)
def bonus(parameters: EntropyBonus, state: EntropyState | None, entropy: float) -> EntropyState:
    """The same in every step."""
    return EntropyState(parameters.coefficient, parameters.coefficient)


@CONTROLLERS.implements(EntropyTarget)
def target(parameters: EntropyTarget, state: EntropyState | None, entropy: float) -> EntropyState:
    """c + step where H <= target, else c - step, within [0, max]; applied where H <= target (Skywork-OR1; He et al.
    2025, arXiv:2505.22312).

    In the first step nothing is applied, as nothing was measured.
    """
    if state is None:
        return EntropyState(parameters.initial_coefficient, 0.0)
    low = entropy <= parameters.target
    moved = state.coefficient + (parameters.step if low else -parameters.step)
    coefficient = min(max(moved, 0.0), parameters.max_coefficient)
    return EntropyState(coefficient, coefficient if low else 0.0)


@CONTROLLERS.implements(EntropyConstraint)
def constraint(parameters: EntropyConstraint, state: EntropyState | None, entropy: float) -> EntropyState:
    """log c - learning_rate (H - target), within the bounds (SAC; Haarnoja et al. 2018, arXiv:1812.05905, sec. 5).

    Gradient descent on c (H - target), the dual of maximising reward under H >= target. SAC steps in log c, so that c
    stays positive, with the derivative with respect to log c divided by c.
    """
    if state is None:
        return EntropyState(parameters.initial_coefficient, parameters.initial_coefficient)
    moved = math.log(state.coefficient) - parameters.learning_rate * (entropy - parameters.target)
    highest = parameters.max_coefficient
    coefficient = max(highest if moved >= math.log(highest) else math.exp(moved), LEAST_COEFFICIENT)
    return EntropyState(coefficient, coefficient)


@CONTROLLERS.implements(EntropyBand)
def band(parameters: EntropyBand, state: EntropyState | None, entropy: float) -> EntropyState:
    """+coefficient where H < low, -coefficient where H > high, else 0; 0 in the first step."""
    applied = 0.0
    if state is not None and entropy < parameters.low:
        applied = parameters.coefficient
    elif state is not None and entropy > parameters.high:
        applied = -parameters.coefficient
    return EntropyState(parameters.coefficient, applied)


@CONTROLLERS.implements(EntropySmoothing)
def smoothing(parameters: EntropySmoothing, state: EntropyState | None, entropy: float) -> EntropyState:
    """bonus + b_k (low - H/M) where H < low M, bonus - b_k (H/M - high) where H > high M, else bonus; M is the mean of
    the last `window` steps before H (EPO; Xu et al. 2025, arXiv:2509.22576).

    The pull is that of the penalty (b_k / 2) M relu(low - H/M)^2 + (b_k / 2) M relu(H/M - high)^2, minus whose
    derivative by H it is: 0 in the band and on its border, growing outside. b_k = coefficient final_share^min(1, k /
    phase_steps) after k steps. The paper bounds entropy by multiples of its running mean with a weight that changes
    over phases; its form of the penalty and its schedule are not settled here, and these are our own.
    """
    if state is None:
        return EntropyState(parameters.coefficient, parameters.bonus)
    steps = state.steps + 1
    strength = parameters.coefficient * parameters.final_share ** min(1.0, steps / parameters.phase_steps)
    pull = 0.0
    if state.recent:
        relative = entropy / max(sum(state.recent) / len(state.recent), LEAST_COEFFICIENT)
        pull = strength * (max(parameters.low - relative, 0.0) - max(relative - parameters.high, 0.0))
    recent = (*state.recent, entropy)[-parameters.window :]
    return EntropyState(strength, parameters.bonus + pull, recent, steps)
