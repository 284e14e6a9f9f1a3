"""What each estimator's gradient is, by enumeration of a categorical distribution; penalties as rewards of tokens."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plumbline_api.methods.kl import AdaptiveKl, Estimator, KlInLoss, KlInReward
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.objectives.policy.kl import kl_estimate, kl_in_loss, kl_rewards, next_kl_coefficient

POLICY = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
REFERENCE = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
SAMPLER = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
"""The policy before the updates, from which the tokens are."""


def divergence(first: Tensor, second: Tensor) -> Tensor:
    return (first * (first / second).log()).sum()


def mean_penalty(logits: Tensor, estimator: Estimator, weighted: bool, old: Tensor) -> Tensor:
    """The mean penalty over actions drawn from `old`, each of which is a completion of one token."""
    batch = PolicyTokens(
        logits.log_softmax(0)[:, None],
        torch.ones(3, 1, dtype=torch.bool),
        torch.zeros(3, 1),
        old_logprobs=old.log()[:, None],
        reference_logprobs=REFERENCE.log()[:, None],
    )
    parameters = KlInLoss.model_construct(coefficient=1.0, estimator=estimator, importance_weighted=weighted)
    return (old[:, None] * kl_in_loss(parameters, batch)[0]).sum()


def gradient(estimator: Estimator, weighted: bool, old: Tensor) -> Tensor:
    logits = POLICY.log().requires_grad_()
    return torch.autograd.grad(mean_penalty(logits, estimator, weighted, old), logits)[0]


def true_gradient(reverse: bool) -> Tensor:
    logits = POLICY.log().requires_grad_()
    now = logits.softmax(0)
    value = divergence(now, REFERENCE) if reverse else divergence(REFERENCE, now)
    return torch.autograd.grad(value, logits)[0]


def test_k1_in_the_loss_has_a_gradient_of_mean_zero_and_is_refused():
    torch.testing.assert_close(gradient("k1", False, POLICY), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValidationError, match="importanceWeighted"):
        KlInLoss(estimator="k1")


def test_k2_on_policy_has_the_gradient_of_the_reverse_divergence():
    torch.testing.assert_close(gradient("k2", False, POLICY), true_gradient(reverse=True))


def test_k3_on_policy_has_the_gradient_of_the_forward_divergence():
    torch.testing.assert_close(gradient("k3", False, POLICY), true_gradient(reverse=False))
    assert (true_gradient(reverse=True) - true_gradient(reverse=False)).abs().max() > 0.01


@pytest.mark.parametrize("old", [POLICY, SAMPLER], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_weighted_each_has_the_gradient_of_the_reverse_divergence(estimator: Estimator, old: Tensor):
    torch.testing.assert_close(gradient(estimator, True, old), true_gradient(reverse=True))


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_unweighted_off_policy_none_has(estimator: Estimator):
    for reverse in (True, False):
        assert (gradient(estimator, False, SAMPLER) - true_gradient(reverse)).abs().max() > 0.01


def test_values():
    d = (REFERENCE / POLICY).log()
    for estimator in ("k1", "k3"):
        assert (POLICY * kl_estimate(estimator, d)).sum() == pytest.approx(divergence(POLICY, REFERENCE).item())
    assert (POLICY * kl_estimate("k2", d)).sum() != pytest.approx(divergence(POLICY, REFERENCE).item(), rel=1e-3)
    assert (kl_estimate("k3", d) > 0).all()
    assert kl_estimate("k3", torch.tensor([500.0])).isfinite()


def test_rewards_of_tokens_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, float("nan")]])
    reference = torch.tensor([[-2.0, -1.5], [-1.0, float("nan")]])
    mask = torch.tensor([[True, True], [True, False]])
    rewards, measured = kl_rewards(KlInReward(), 0.5, logprobs, reference, mask)
    assert rewards.tolist() == [[-0.5, 0.25], [1.0, 0]]
    assert measured.value == pytest.approx((0.5 - 2.0) / 2)
    squares, _ = kl_rewards(KlInReward(estimator="k2"), 1.0, logprobs, reference, mask)
    assert squares.tolist() == [[-0.5, -0.125], [-2, 0]]


def score_gradient(estimator: Estimator) -> Tensor:
    """-E[reward grad log pi]: what a penalty in the reward adds to the gradient of the loss."""
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(0)
    rewards, _ = kl_rewards(
        KlInReward(estimator=estimator), 1.0, POLICY.log()[:, None], REFERENCE.log()[:, None], torch.ones(3, 1).bool()
    )
    return torch.autograd.grad(-(POLICY * rewards.squeeze(1) * logprobs).sum(), logits)[0]


def test_in_the_reward_k1_has_the_gradient_of_the_reverse_divergence_and_no_other_does():
    torch.testing.assert_close(score_gradient("k1"), true_gradient(reverse=True))
    for estimator in ("k2", "k3"):
        assert (score_gradient(estimator) - true_gradient(reverse=True)).abs().max() > 0.01


def test_the_adaptive_coefficient_follows_ziegler():
    parameters = KlInReward(adaptive=AdaptiveKl(target=6, horizon=10_000))
    assert next_kl_coefficient(parameters, 0.2, 6.0, 1000) == 0.2
    assert next_kl_coefficient(parameters, 0.2, 6.6, 1000) == pytest.approx(0.2 * 1.01)
    assert next_kl_coefficient(parameters, 0.2, 600, 1000) == pytest.approx(0.2 * 1.02)
    assert next_kl_coefficient(parameters, 0.2, 0.0, 1000) == pytest.approx(0.2 * 0.98)
    assert next_kl_coefficient(parameters, 0.2, 0.0, 10**6) == 0
    assert next_kl_coefficient(KlInReward(), 0.2, 600, 1000) == 0.2


def test_the_adaptive_coefficient_finds_the_target():
    """Where the divergence falls as the coefficient grows, as for the optimum of reward minus divergence."""
    parameters = KlInReward(adaptive=AdaptiveKl(target=2, horizon=100))
    coefficient = 0.01
    for _ in range(400):
        coefficient = next_kl_coefficient(parameters, coefficient, 1 / coefficient, 50)
    assert 1 / coefficient == pytest.approx(2, rel=1e-3)
