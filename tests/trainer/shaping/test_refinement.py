"""Rewards for improving a draft."""

import pytest
import torch

from plumbline_api.methods.shaping.refinement import RefinementGain
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import apply_shaping


def rewards_of(parameters, **rounds):
    components = {name: torch.tensor(values, dtype=torch.float64) for name, values in rounds.items()}
    count = len(next(iter(components.values())))
    return apply_shaping([parameters], judged([0.0] * count, [0] * count, components=components), {})


def test_repeating_earns_nothing_improving_something_and_spoiling_costs():
    after, _, metrics = rewards_of(
        RefinementGain(rounds=["draft", "revised"]), draft=[1, 0, 0, 1, 0.5], revised=[1, 0, 1, 0, 0.75]
    )
    assert after.rewards.tolist() == [0, 0, 1, -1, 0.25]
    assert metrics["shaping/refinementGain/gain"].value == pytest.approx(0.05)
    assert metrics["shaping/refinementGain/improved"].value == pytest.approx(0.4)


def test_gains_of_several_rounds_sum_to_last_less_first_unless_discounted():
    rounds = {"a": [0.0], "b": [1.0], "c": [0.5]}
    assert rewards_of(RefinementGain(rounds=list(rounds)), **rounds)[0].rewards.tolist() == [0.5]
    discounted = RefinementGain(rounds=list(rounds), discount=0.5, weight=2)
    assert rewards_of(discounted, **rounds)[0].rewards.tolist() == [2 * (1 - 0.25)]


def test_the_final_score_can_count_beside_the_gain():
    after, _, _ = rewards_of(RefinementGain(rounds=["a", "b"], final_weight=0.5), a=[1.0, 0.0], b=[1.0, 1.0])
    assert after.rewards.tolist() == [0.5, 1.5]


def test_revision_is_learned_where_it_helps_and_left_where_it_harms():
    """Revising mends a wrong draft and spoils a right one; exact policy-gradient ascent for each kind of draft."""
    for draft, better in ((0.0, 1), (1.0, 0)):
        logits = torch.zeros(2, dtype=torch.float64)  # keep, revise
        revised = [draft, 1 - draft]
        rewards = rewards_of(RefinementGain(rounds=["a", "b"]), a=[draft, draft], b=revised)[0].rewards
        for _ in range(100):
            policy = logits.softmax(-1)
            logits = logits + policy * (rewards - (policy * rewards).sum())
        assert logits.softmax(-1)[better] > 0.95
