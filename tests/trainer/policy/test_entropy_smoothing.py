"""Entropy smoothing: the band around the recent mean, its phases, and its state across a restart."""

import json
import math
from dataclasses import asdict

import pytest
import torch

from plumbline_api.methods.entropy import EntropyBonus, EntropyControl, EntropySmoothing
from plumbline_trainer.objectives.policy.entropy import EntropyState, first_state, next_state


def after(parameters: EntropyControl, entropies: list[float]) -> EntropyState:
    state = first_state(parameters)
    for entropy in entropies:
        state = next_state(parameters, state, entropy)
    return state


def test_inside_the_band_there_is_the_bonus_alone():
    parameters = EntropySmoothing(bonus=0.01)
    assert first_state(parameters).applied == 0.01
    for entropy in [0.5, 0.41, 0.59]:
        assert after(parameters, [0.5, entropy]).applied == 0.01


def test_outside_it_pulls_back_and_the_more_the_farther():
    parameters = EntropySmoothing(bonus=0.0, coefficient=2.0)
    assert after(parameters, [0.5, 0.3]).applied == pytest.approx(2.0 * (0.8 - 0.6))
    assert after(parameters, [0.5, 0.1]).applied == pytest.approx(2.0 * (0.8 - 0.2))
    assert after(parameters, [0.5, 0.8]).applied == pytest.approx(-2.0 * (1.6 - 1.2))


def test_the_pull_is_the_slope_of_the_penalty():
    parameters = EntropySmoothing(bonus=0.0, coefficient=0.7)
    for entropy in [0.1, 0.45, 0.9]:
        value = torch.tensor(entropy, dtype=torch.float64, requires_grad=True)
        relative = value / 0.5
        penalty = 0.7 / 2 * 0.5 * (torch.relu(0.8 - relative) ** 2 + torch.relu(relative - 1.2) ** 2)
        (slope,) = torch.autograd.grad(penalty, value)
        assert after(parameters, [0.5, entropy]).applied == pytest.approx(-slope.item())


def test_the_mean_is_of_the_last_steps_only():
    parameters = EntropySmoothing(bonus=0.0, coefficient=1.0, window=2)
    state = after(parameters, [9.0, 0.4, 0.6, 0.3])
    assert state.recent == (0.6, 0.3)
    assert state.applied == pytest.approx(0.8 - 0.3 / 0.5)


def test_the_pull_fades_over_its_phase():
    parameters = EntropySmoothing(bonus=0.0, coefficient=1.0, final_share=0.25, phase_steps=4)
    strengths = [after(parameters, [0.5] * count).coefficient for count in range(1, 7)]
    assert strengths == pytest.approx([0.25 ** (count / 4) for count in range(1, 5)] + [0.25, 0.25])


def test_it_goes_on_from_a_checkpoint():
    parameters = EntropySmoothing(window=3, final_share=0.5, phase_steps=10)
    state = after(parameters, [0.9, 0.7, 0.8, 0.2])
    stored = json.loads(json.dumps(asdict(state)))
    again = EntropyState(**{**stored, "recent": tuple(stored["recent"])})
    assert again == state
    assert next_state(parameters, again, 0.1) == next_state(parameters, state, 0.1)


def run(parameters: EntropyControl, steps: int = 300) -> tuple[float, float]:
    """Success and spread of the entropy for a task of six right tokens in a row, from sampled rewards alone."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.zeros(6, 3, dtype=torch.float64)
    state, measured = first_state(parameters), []
    for _ in range(steps):
        leaf = logits.clone().requires_grad_()
        logprobs = leaf.log_softmax(1)
        drawn = torch.multinomial(logprobs.detach().exp(), 64, replacement=True, generator=generator)
        rewards = (drawn == 0).all(dim=0).double()
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        gain = (logprobs.gather(1, drawn).sum(dim=0) * advantages).mean()
        entropy = -(logprobs.exp() * logprobs).sum(dim=1).mean()
        (gradient,) = torch.autograd.grad(-gain - state.applied * entropy, leaf)
        logits = logits - 0.3 * gradient
        measured.append(entropy.item())
        state = next_state(parameters, state, entropy.item())
    jumps = torch.tensor(measured).diff().abs()
    return math.exp(logits.log_softmax(1)[:, 0].sum().item()), jumps.max().item()


def test_with_a_sparse_reward_entropy_moves_more_smoothly_than_under_a_plain_bonus():
    """Six tokens must all be right: after the first lucky draws the bonus alone lets entropy drop at once."""
    success, jump = run(EntropyBonus(coefficient=0.01))
    smoothed_success, smoothed_jump = run(EntropySmoothing(bonus=0.01, coefficient=5.0, low=0.95, high=1.05, window=10))
    assert smoothed_jump < jump
    assert smoothed_success > 0.9 * success > 0.5
