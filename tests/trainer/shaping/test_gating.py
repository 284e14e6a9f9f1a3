"""Gates: process rewards, trust, reward models beside a verifier."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_api.methods.shaping.gating import ComponentGate, Posterior, SigmoidGate, Trust
from plumbline_trainer.advantages import advantages
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import apply_shaping


def rollout_of(rewards, component, groups=None, name="thinking", **more):
    values = torch.tensor(component, dtype=torch.float64)
    return judged(rewards, [0] * len(rewards) if groups is None else groups, components={name: values}, **more)


def rewards_of(parameters, *arguments, **more):
    return apply_shaping([parameters], rollout_of(*arguments, **more), {})[0].rewards.tolist()


def test_a_component_below_its_threshold_decides_the_reward():
    assert rewards_of(ComponentGate(component="thinking", otherwise=-1), [1, 1, 0], [1, 0.5, 0]) == [1, -1, -1]
    assert rewards_of(ComponentGate(component="thinking", threshold=0.5), [1, 1, 0.3], [1, 0.5, 0]) == [1, 1, 0]


def test_posterior_gives_a_hacked_process_reward_nothing():
    assert rewards_of(Posterior(component="thinking"), [1, 0, 0], [0.5, 0.9, 1.0]) == [1.5, 0, 0]


def test_posterior_tells_right_completions_apart():
    rollout = rollout_of([1, 1, 1], [0.2, 0.5, 0.8])
    assert advantages(GroupRelative(), rollout).tolist() == [0, 0, 0]
    shaped, _, _ = apply_shaping([Posterior(component="thinking", weight=0.5)], rollout, {})
    assert advantages(GroupRelative(normalize="none"), shaped).tolist() == pytest.approx([-0.15, 0, 0.15])


OUTCOME = torch.tensor([0.6, 0.0, 0.0], dtype=torch.float64)
"""How often the answer is right after solving, after bluffing, after giving up."""
LOOKS = [0.1, 1.0, 0.0]
"""The process reward of each."""


def learned(shape, steps=200):
    """Probabilities of solving, bluffing and giving up after exact policy-gradient ascent from equal ones."""
    logits = torch.zeros(3, dtype=torch.float64)
    for _ in range(steps):
        policy = logits.softmax(-1)
        expected = OUTCOME * shape(1.0) + (1 - OUTCOME) * shape(0.0)
        logits = logits + policy * (expected - (policy * expected).sum())
    return logits.softmax(-1)


def test_a_summed_process_reward_is_hacked_and_a_gated_one_not():
    def gated(right):
        return torch.tensor(rewards_of(Posterior(component="thinking"), [right] * 3, LOOKS), dtype=torch.float64)

    def summed(right):
        return right + torch.tensor(LOOKS, dtype=torch.float64)

    assert learned(gated)[0] > 0.95
    assert learned(summed)[1] > 0.95


def test_trust_falls_where_wrong_completions_think_better():
    # means 0.2 of right and 0.9 of wrong: e^-0.7
    trusted = math.exp(0.3 - 0.9)
    found = rewards_of(Trust(component="thinking", weight=0.3), [1, 1, 0], [0.2, 0.4, 0.9])
    assert found == pytest.approx([1 + 0.3 * trusted * 0.2, 1 + 0.3 * trusted * 0.4, 0.3 * trusted * 0.9])


def test_trust_is_whole_where_right_completions_think_better():
    found = rewards_of(Trust(component="thinking", weight=0.3), [1, 0], [0.9, 0.4])
    assert found == pytest.approx([1.27, 0.12])


def test_trust_needs_right_and_wrong_completions_in_the_group():
    found = rewards_of(Trust(component="thinking"), [1, 1, 0, 0], [0.9, 0.1, 0.9, 0.1], groups=[0, 0, 1, 1])
    assert found == [1, 1, 0, 0]


def test_trust_fades_to_plain_group_advantages():
    rollout = rollout_of([1, 1, 0, 0], [0.9, 0.1, 0.8, 0.2], step=20_000)
    shaped, _, _ = apply_shaping([Trust(component="thinking", annealing_steps=500)], rollout, {})
    assert torch.allclose(advantages(GroupRelative(), shaped), advantages(GroupRelative(), rollout), atol=1e-12)
    earlier = rollout_of([1, 0], [1.0, 0.0], step=500)
    shaped, _, _ = apply_shaping([Trust(component="thinking", weight=0.3, annealing_steps=500)], earlier, {})
    assert float(shaped.rewards[0]) == pytest.approx(1 + 0.3 / math.e)


def test_trust_counts_valid_completions_only():
    valid = torch.tensor([True, True, False])
    found = rewards_of(Trust(component="thinking"), [1, 0, 0], [0.5, 0.5, 1e6], valid=valid)
    assert found == pytest.approx([1.15, 0.15, 0])


@settings(deadline=None)
@given(scores=st.lists(st.floats(-60, 60), min_size=2, max_size=8), alpha=st.floats(0.01, 1))
def test_every_right_completion_stays_above_every_wrong_one(scores, alpha):
    parameters = SigmoidGate(component="thinking", alpha=alpha)
    right = rewards_of(parameters, [1] * len(scores), scores)
    wrong = rewards_of(parameters, [0] * len(scores), scores)
    assert min(right) >= 0 >= max(wrong)
    assert min(right) > max(wrong)


def test_sigmoid_gate_is_the_papers_sum():
    # sigmoid(0.5 * 2) + (1 - 1) and sigmoid(0.5 * 2) + (0 - 1)
    sigmoid = 1 / (1 + math.exp(-1))
    assert rewards_of(SigmoidGate(component="thinking"), [1, 0], [2, 2]) == pytest.approx([sigmoid, sigmoid - 1])
