"""Ratios of whole completions by hand, at their limits, and their gradients against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.policy.clipped import Grpo
from plumbline_api.methods.policy.likelihood import Reinforce
from plumbline_api.methods.policy.sequence_ratio import Gmpo, Gspo, GspoToken, Luspo, Topr, Vespo
from plumbline_api.methods.policy_aggregation import SequenceSum
from tests.trainer.policy.records import loss_of, random_tokens, tokens

LOG = math.log


def slope(loss: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logprobs)[0]


def test_gspo_by_hand():
    """Token ratios 2 and 1/8 have the geometric mean 1/2, below 1 - 0.1: the good completion keeps its gradient, the
    bad one loses it."""
    old = [[LOG(0.2), LOG(0.8)]] * 2
    batch = tokens([[LOG(0.4), LOG(0.1)]] * 2, [3.0, -2.0], old=old)
    loss, metrics = loss_of(Gspo(clip_low=0.1, clip_high=0.2), batch)
    assert loss.item() == pytest.approx((-0.5 * 3 + 0.9 * 2) / 2)
    assert slope(loss, batch.logprobs).tolist() == [pytest.approx([-0.5 * 3 / 4] * 2), [0, 0]]
    assert metrics["ratio"].value == pytest.approx(0.5)
    assert metrics["clip_share/low"].value == pytest.approx(0.5)


@pytest.mark.parametrize("parameters", [Gspo(clip_low=0.2, clip_high=0.3), GspoToken(clip_low=0.2, clip_high=0.3)])
def test_with_completions_of_one_token_gspo_is_grpo(parameters: Gspo):
    batch = random_tokens(rows=20, width=1, seed=1)
    ours, theirs = loss_of(parameters, batch)[0], loss_of(Grpo(clip_low=0.2, clip_high=0.3), batch)[0]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(slope(ours, batch.logprobs), slope(theirs, batch.logprobs))


def test_gspo_token_is_gspo_where_a_completion_has_one_advantage():
    batch = random_tokens(rows=20, seed=2)
    ours = loss_of(GspoToken(clip_low=0.1, clip_high=0.1), batch)[0]
    theirs = loss_of(Gspo(clip_low=0.1, clip_high=0.1), batch)[0]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(slope(ours, batch.logprobs), slope(theirs, batch.logprobs))


def test_gspo_token_credits_the_tokens_that_have_the_advantage():
    batch = tokens([[-1.0, -2.0]], [[1.0, 0.0]], old=[[-1.0, -2.0]])
    assert slope(loss_of(GspoToken(), batch)[0], batch.logprobs).tolist() == [[-0.5, 0]]
    assert slope(loss_of(Gspo(), batch)[0], batch.logprobs).tolist() == [[-0.25, -0.25]]


def test_luspo_is_gspo_times_length():
    batch = random_tokens(seed=3)
    bounds = {"clip_low": 0.1, "clip_high": 0.1}
    torch.testing.assert_close(
        loss_of(Luspo(**bounds), batch)[0], loss_of(Gspo(**bounds), batch, aggregation=SequenceSum())[0]
    )


def test_gmpo_by_hand():
    """A > 0: log-ratios 1 and -1 become 0.4 and -1. A < 0: they become 1 and -0.4."""
    batch = tokens([[-1.0, -3.0]] * 2, [2.0, -1.0], old=[[-2.0, -2.0]] * 2)
    loss, metrics = loss_of(Gmpo(), batch)
    good, bad = math.exp(-0.3), math.exp(0.3)
    assert loss.item() == pytest.approx((-2 * good + bad) / 2)
    assert slope(loss, batch.logprobs).tolist() == [pytest.approx([0, -good / 2]), pytest.approx([bad / 4, 0])]
    assert metrics["clip_share/high"].value == metrics["clip_share/low"].value == pytest.approx(1 / 4)


def test_gmpo_without_bounds_is_gspo_without_bounds():
    batch = random_tokens(seed=4)
    torch.testing.assert_close(
        loss_of(Gmpo(clip_low=10, clip_high=10), batch)[0],
        loss_of(Gspo(clip_low=1 - 1e-12, clip_high=10), batch)[0],
        rtol=1e-6,
        atol=1e-6,
    )


def test_topr_by_hand():
    """The completion's ratio is 1/2 x 1/2 in one case and 4 in the other: it counts where the advantage is negative,
    and no more than 1."""
    down, up = [LOG(0.2), LOG(0.4)], [LOG(0.8), LOG(0.8)]
    old = [[LOG(0.4), LOG(0.8)], [LOG(0.4), LOG(0.4)]]
    for advantage, weights in [(3.0, [1, 1]), (-3.0, [0.25, 1])]:
        batch = tokens([down, up], [advantage] * 2, old=old)
        found = slope(loss_of(Topr(), batch)[0], batch.logprobs)
        assert found.tolist() == [pytest.approx([-weight * advantage / 2] * 2) for weight in weights]


@pytest.mark.parametrize("parameters", [Topr(), Vespo()])
def test_on_policy_the_gradient_is_reinforces(parameters: Topr | Vespo):
    batch = random_tokens(seed=5, on_policy=True)
    ours = loss_of(parameters, batch, aggregation=SequenceSum())[0]
    torch.testing.assert_close(slope(ours, batch.logprobs), slope(loss_of(Reinforce(), batch)[0], batch.logprobs))


def test_topr_lets_go_of_a_bad_completion_and_keeps_imitating_a_good_one():
    """Far from the sampler a negative advantage has no gradient, while REINFORCE's never ends."""
    batch = random_tokens(seed=6)
    assert batch.old_logprobs is not None
    far = replace(batch, logprobs=(batch.old_logprobs - 30).requires_grad_())
    found = slope(loss_of(Topr(), far)[0], far.logprobs)
    bad = batch.mask & (batch.advantages < 0)
    assert found[bad].abs().max() < 1e-10
    assert found[batch.mask & ~bad].abs().min() > 1e-3


def test_vespo_weighs_by_a_gamma_density():
    """phi is 1 at w = 1, peaks at k / lambda, and vanishes on both sides."""
    ratios = [1e-9, 0.3, 2 / 3, 1.0, 2.0, 40.0]
    batch = tokens([[LOG(ratio) - 1] for ratio in ratios], [1.0] * 6, old=[[-1.0]] * 6)
    weights = (-6 * slope(loss_of(Vespo(), batch)[0], batch.logprobs)).squeeze(1)
    expected = [math.exp(3) * max(w, 1e-8) ** 2 * math.exp(-3 * max(w, 1e-8)) for w in ratios]
    assert weights.tolist() == pytest.approx(expected)
    assert weights[3] == pytest.approx(1)
    assert weights.argmax() == 2
    assert weights[0] < 1e-12 and weights[-1] < 1e-12
