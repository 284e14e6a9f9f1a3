"""Bounded weights by hand, at their limits, and where PPO's clipping has no gradient at all."""

from __future__ import annotations

import math

import pytest
import torch

from plumbline_api.methods.policy.clipped import Ppo
from plumbline_api.methods.policy.soft_clip import Cispo, Sapo
from plumbline_api.methods.policy_aggregation import TokenMean
from tests.trainer.policy.records import loss_of, random_tokens, tokens


def slopes(parameters: Cispo | Sapo | Ppo, ratios: list[float], advantage: float) -> list[float]:
    """The gradient of single tokens' losses with respect to their log-probabilities."""
    batch = tokens([[math.log(ratio) - 3] for ratio in ratios], [advantage] * len(ratios), old=[[-3.0]] * len(ratios))
    loss, _ = loss_of(parameters, batch, aggregation=TokenMean())
    return [len(ratios) * value for value in torch.autograd.grad(loss, batch.logprobs)[0].squeeze(1).tolist()]


def test_cispo_clips_the_weight_and_keeps_the_gradient():
    ratios = [0.2, 1.0, 1.5, 9.0]
    for advantage in (2.0, -2.0):
        expected = [-weight * advantage for weight in (0.5, 1.0, 1.5, 3.0)]
        assert slopes(Cispo(lower=0.5, upper=3), ratios, advantage) == pytest.approx(expected)
    assert slopes(Ppo(), ratios, 2.0)[2:] == [0, 0]
    assert slopes(Ppo(), ratios, -2.0)[0] == 0


def test_cispo_value_by_hand():
    batch = tokens([[-1.0], [-2.0]], [2.0, -1.0], old=[[-3.0], [-2.0]])
    loss, metrics = loss_of(Cispo(upper=3), batch)
    assert loss.item() == pytest.approx((3 * 2 * 1.0 - 1 * 2.0) / 2)
    assert metrics["clip_share"].value == 0.5
    assert metrics["importance_weight"].value == 2.0


def test_sapo_by_hand():
    """-A (4 / tau) s(tau (r - 1)) and its derivative -A r 4 s (1 - s)."""
    batch = tokens([[math.log(1.5) - 1], [math.log(0.5) - 1]], [2.0, -3.0], old=[[-1.0]] * 2)
    loss, metrics = loss_of(Sapo(tau_positive=2, tau_negative=4), batch)
    first, second = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(2.0))
    assert loss.item() == pytest.approx((-2 * 2 * first + 3 * 1 * second) / 2)
    expected = [-2 * 1.5 * 4 * first * (1 - first) / 2, 3 * 0.5 * 4 * second * (1 - second) / 2]
    assert torch.autograd.grad(loss, batch.logprobs)[0].squeeze(1).tolist() == pytest.approx(expected)
    assert metrics["gate"].value == pytest.approx((4 * first * (1 - first) + 4 * second * (1 - second)) / 2)


def test_sapo_is_the_plain_ratio_near_the_sampler_and_fades_away_from_it():
    assert slopes(Sapo(), [1.0], 2.0) == slopes(Sapo(), [1.0], 2.0) == pytest.approx([-2.0])
    near, far, farther = (abs(value) for value in slopes(Sapo(tau_positive=5), [1.5, 3.0, 6.0], 1.0))
    assert near > far > farther > 0
    assert slopes(Sapo(tau_positive=1e-3), [1.5], 1.0) == pytest.approx([-1.5], rel=1e-4)


def test_on_policy_both_have_ppos_gradient():
    batch = random_tokens(seed=3, on_policy=True)
    (expected,) = torch.autograd.grad(loss_of(Ppo(), batch)[0], batch.logprobs)
    for parameters in (Cispo(), Sapo()):
        loss, _ = loss_of(parameters, batch, aggregation=TokenMean())
        torch.testing.assert_close(torch.autograd.grad(loss, batch.logprobs)[0], expected)
