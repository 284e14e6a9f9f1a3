"""Clipped ratios, plain likelihoods, aggregations and the KL penalty against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from plumbline_api.methods.kl import KlInLoss
from plumbline_api.methods.policy.clipped import Dapo, DrGrpo, Grpo, Ppo
from plumbline_api.methods.policy.likelihood import Reinforce
from plumbline_api.methods.policy_aggregation import Constant, TokenMean
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.kl import kl_in_loss
from tests.trainer.policy.records import counts, loss_of, random_tokens, tokens


def test_grpo_by_hand():
    """Two completions. Ratios: 1.5, clipped at 1.2 as A > 0, and 0.9; then 0.5, clipped at 0.8 as A < 0."""
    batch = tokens(
        [[math.log(0.6), math.log(0.45)], [math.log(0.2), 0.0]],
        [2.0, -1.0],
        [[True, True], [True, False]],
        old=[[math.log(0.4), math.log(0.5)], [math.log(0.4), 5.0]],
    )
    loss, metrics = loss_of(Grpo(), batch)
    first = -(1.2 * 2.0 + 0.9 * 2.0) / 2
    second = 0.8 * 1.0  # min(0.5 * -1, 0.8 * -1) = -0.8
    assert loss.item() == pytest.approx((first + second) / 2)
    assert metrics["clip_share/high"].value == pytest.approx(1 / 3)
    assert metrics["clip_share/low"].value == pytest.approx(1 / 3)
    assert metrics["ratio"].value == pytest.approx((1.5 + 0.9 + 0.5) / 3)


def test_dr_grpo_by_hand():
    batch = tokens([[-1.0, -2.0], [-3.0, 0.0]], [2.0, -1.0], [[True, True], [True, False]])
    loss, _ = loss_of(DrGrpo(), batch)
    assert loss.item() == pytest.approx((-2.0 - 2.0 + 1.0) / (2 * 8))
    loss, _ = loss_of(DrGrpo(), batch, aggregation=Constant(tokens=5))
    assert loss.item() == pytest.approx((-2.0 - 2.0 + 1.0) / (2 * 5))


def test_reinforce_by_hand():
    batch = tokens([[-1.0, -2.0], [-3.0, -9.0]], [2.0, -1.0], [[True, True], [True, False]])
    loss, _ = loss_of(Reinforce(), batch, StepCounts(4, 3, 8))
    assert loss.item() == pytest.approx((2.0 * 3.0 - 1.0 * 3.0) / 4)


def test_clip_higher_moves_only_the_upper_bound():
    batch = tokens([[math.log(0.6)]], [1.0], old=[[math.log(0.4)]])
    loss, metrics = loss_of(Grpo(clip_low=0.2, clip_high=0.28), batch)
    assert loss.item() == pytest.approx(-1.28)
    assert metrics["clip_share/high"].value == 1


def test_clipping_never_lets_a_bad_step_off():
    """The minimum keeps the gradient where the ratio has moved against the advantage."""
    for advantage, ratio in [(1.0, 0.5), (-1.0, 1.5)]:
        batch = tokens([[math.log(0.4 * ratio)]], [advantage], old=[[math.log(0.4)]])
        loss, _ = loss_of(Grpo(), batch)
        loss.backward()
        assert loss.item() == pytest.approx(-ratio * advantage)
        assert batch.logprobs.grad.item() == pytest.approx(-ratio * advantage)


def test_k3_is_zero_at_the_reference_and_its_mean_is_the_kl_divergence():
    policy = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    reference = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    batch = PolicyTokens(
        policy.log()[None],
        torch.ones(1, 3, dtype=torch.bool),
        torch.zeros(1, 3),
        reference_logprobs=reference.log()[None],
    )
    penalty, _ = kl_in_loss(KlInLoss(coefficient=2.0), batch)
    expected = (policy * (policy / reference).log()).sum()
    assert (penalty[0] * policy).sum().item() == pytest.approx(2.0 * expected.item())
    same = replace(batch, reference_logprobs=batch.logprobs)
    assert kl_in_loss(KlInLoss(coefficient=2.0), same)[0].abs().max().item() == 0


def test_a_kl_penalty_without_reference_is_refused():
    batch = tokens([[-1.0]], [1.0])
    with pytest.raises(ValueError, match="reference"):
        loss_of(Grpo(), batch, kl=KlInLoss())


def test_on_policy_every_ratio_is_one_and_the_gradient_is_reinforces():
    """GRPO and Dr. GRPO differ from REINFORCE only in what a sequence is divided by."""
    batch = random_tokens(on_policy=True)
    gradients = {}
    for parameters in [Grpo(), DrGrpo(), Reinforce()]:
        loss, metrics = loss_of(parameters, batch)
        (gradients[type(parameters)],) = torch.autograd.grad(loss, batch.logprobs)
        if "ratio" in metrics:
            assert metrics["ratio"].value == 1.0
            assert metrics["clip_share/low"].value == metrics["clip_share/high"].value == 0.0
    lengths = batch.mask.sum(dim=1, keepdim=True)
    torch.testing.assert_close(gradients[Grpo], gradients[Reinforce] / lengths)
    torch.testing.assert_close(gradients[DrGrpo], gradients[Reinforce] / 8)


def test_completions_without_signal_still_count():
    """A completion with advantage 0 adds nothing and is still one of the sequences that the loss is divided by."""
    batch = random_tokens(seed=4, on_policy=True)
    batch.advantages[3:] = 0
    every, _ = loss_of(Grpo(), batch)
    some, _ = loss_of(Grpo(), batch.rows(torch.arange(3)), counts(batch))
    torch.testing.assert_close(every, some)


def test_a_token_mean_weighs_every_token_alike():
    batch = tokens([[-1.0, -2.0], [-3.0, -9.0]], [2.0, -1.0], [[True, True], [True, False]])
    loss, _ = loss_of(Reinforce(), batch, aggregation=TokenMean())
    assert loss.item() == pytest.approx((2.0 * 3.0 - 1.0 * 3.0) / 3)


def test_ppo_and_dapo_are_grpo_with_other_defaults():
    batch = random_tokens(seed=7)
    for parameters, clip_high in [(Ppo(), 0.2), (Dapo(), 0.28)]:
        expected, _ = loss_of(Grpo(clip_high=clip_high), batch, aggregation=TokenMean())
        torch.testing.assert_close(loss_of(parameters, batch)[0], expected)


def test_the_dual_clip_by_hand():
    """A bad token whose ratio is 8: without the bound its loss is 8, with 3 it stays at 3 and has no gradient."""
    batch = tokens([[math.log(0.8)], [math.log(0.8)]], [-1.0, 1.0], old=[[math.log(0.1)]] * 2)
    plain, _ = loss_of(Ppo(), batch)
    assert plain.item() == pytest.approx((8 - 1.2) / 2)
    loss, metrics = loss_of(Ppo(dual_clip=3), batch)
    assert loss.item() == pytest.approx((3 - 1.2) / 2)
    assert not torch.autograd.grad(loss, batch.logprobs)[0].any()
    assert metrics["clip_share/dual"].value == 0.5


def test_a_dual_clip_that_nothing_reaches_is_ppo():
    batch = random_tokens(rows=30, seed=8)
    plain, dual = (loss_of(parameters, batch)[0] for parameters in (Ppo(), Ppo(dual_clip=100)))
    assert plain.item() == dual.item()
    assert loss_of(Ppo(dual_clip=1.2), batch)[0] < plain


def test_a_dual_clip_below_the_upper_bound_is_refused():
    with pytest.raises(ValidationError, match="dualClip must be at least 1"):
        Ppo(dual_clip=1.2, clip_high=0.3)
    assert Ppo(dual_clip=1.5, clip_high=0.3).dual_clip == 1.5


def test_ratios_that_no_float_can_hold_stay_finite():
    batch = tokens([[500.0, -500.0]], [-1.0], old=[[0.0, 0.0]])
    loss, _ = loss_of(Ppo(), batch)
    assert loss.isfinite()
