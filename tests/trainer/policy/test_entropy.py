"""Controllers of entropy, step by step and in a closed loop."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from plumbline_api.methods.entropy import EntropyBand, EntropyBonus, EntropyConstraint, EntropyControl, EntropyTarget
from plumbline_trainer.objectives.policy.entropy import (
    CONTROLLERS,
    POLICY_ENTROPY,
    EntropyState,
    entropy_term,
    first_state,
    next_state,
)
from tests.trainer.policy.records import random_tokens, tokens


def test_every_control_of_the_api_is_implemented():
    assert CONTROLLERS.missing() == []


def test_the_term_is_minus_the_coefficient_times_entropy():
    batch = random_tokens(seed=1)
    assert batch.entropy is not None
    term, metrics = entropy_term(0.3, batch)
    assert torch.equal(term[batch.mask], -0.3 * batch.entropy[batch.mask])
    assert not term[~batch.mask].any()
    assert metrics[POLICY_ENTROPY].value == pytest.approx(batch.entropy[batch.mask].mean().item())
    with pytest.raises(ValueError, match="entropies"):
        entropy_term(0.3, tokens([[-1.0]], [1.0]))


def test_a_bonus_is_constant():
    parameters = EntropyBonus(coefficient=0.02)
    assert first_state(parameters) == next_state(parameters, first_state(parameters), 5.0) == EntropyState(0.02, 0.02)


def test_a_target_moves_by_steps_and_acts_below_only():
    parameters = EntropyTarget(target=0.5, step=0.1, initial_coefficient=0.1, max_coefficient=0.25)
    state = first_state(parameters)
    assert state == EntropyState(0.1, 0.0)
    seen = []
    for entropy in (0.4, 0.5, 0.6, 0.9, 0.9, 0.1):
        state = next_state(parameters, state, entropy)
        seen.append((round(state.coefficient, 9), round(state.applied, 9)))
    assert seen == [(0.2, 0.2), (0.25, 0.25), (0.15, 0), (0.05, 0), (0.0, 0), (0.1, 0.1)]


def test_a_constraint_moves_the_logarithm():
    parameters = EntropyConstraint(target=0.5, learning_rate=0.2, initial_coefficient=0.01, max_coefficient=0.1)
    state = next_state(parameters, first_state(parameters), 0.25)
    assert state.coefficient == state.applied == pytest.approx(0.01 * math.exp(0.05))
    for _ in range(500):
        state = next_state(parameters, state, 0.0)
    assert state.coefficient == 0.1
    for _ in range(500):
        state = next_state(parameters, state, 1e6)
    assert 0 < state.coefficient < 1e-6


def test_a_band_pushes_from_both_sides():
    parameters = EntropyBand(low=0.1, high=1.0, coefficient=0.02)
    state = first_state(parameters)
    assert state.applied == 0
    assert [next_state(parameters, state, entropy).applied for entropy in (0.05, 0.1, 1.0, 1.1)] == [0.02, 0, 0, -0.02]


@pytest.mark.parametrize(
    "parameters",
    [
        EntropyTarget(target=0.8, step=0.02),
        EntropyConstraint(target=0.8, learning_rate=0.1, initial_coefficient=0.05, max_coefficient=5.0),
    ],
    ids=lambda parameters: parameters.member_key,
)
def test_a_bandit_is_held_at_the_target(parameters: EntropyControl):
    """Gradient ascent on expected reward alone makes a policy certain; under control its entropy ends near 0.8."""

    def final_entropy(control: EntropyControl | None) -> float:
        rewards = torch.tensor([1.0, 0.6, 0.2, 0.0], dtype=torch.float64)
        logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        state = None if control is None else first_state(control)
        history = []
        for _ in range(1500):
            policy = torch.distributions.Categorical(logits=logits)
            coefficient = 0.0 if state is None else state.applied
            gain = (policy.probs * rewards).sum() + coefficient * policy.entropy()
            (slope,) = torch.autograd.grad(gain, logits)
            with torch.no_grad():
                logits += slope
            history.append(policy.entropy().item())
            if control is not None and state is not None:
                state = next_state(control, state, history[-1])
        return sum(history[-200:]) / 200

    assert final_entropy(None) < 0.1
    assert final_entropy(parameters) == pytest.approx(0.8, abs=0.05)


def test_impossible_settings_are_refused():
    with pytest.raises(ValidationError, match="low must be below high"):
        EntropyBand(low=1, high=0.5)
    for control in (EntropyTarget, EntropyConstraint):
        with pytest.raises(ValidationError, match="maxCoefficient"):
            control(initial_coefficient=0.5, max_coefficient=0.1)
