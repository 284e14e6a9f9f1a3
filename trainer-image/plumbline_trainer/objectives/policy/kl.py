"""Penalties on the divergence of the policy from the reference: in the loss, or as rewards of tokens.

With d = log pi_ref(y_t) - log pi(y_t) of a token sampled from pi, three estimates of KL(pi || pi_ref) at that position
(Schulman 2020, "Approximating KL divergence"):

    k1 = -d                 unbiased, of either sign
    k2 = d^2 / 2            biased
    k3 = e^d - d - 1        unbiased, never negative

An estimate of a value need not have the gradient of the value, as sampling depends on the policy too. With
l = log pi(y_t) and sums over the vocabulary,

    E[grad k1] = E[grad l] = 0
    E[grad k2] = E[-d grad l] = grad KL(pi || pi_ref)
    E[grad k3] = E[(1 - e^d) grad l] = -sum pi_ref grad l = grad KL(pi_ref || pi)

while grad E[k] = E[k grad l + grad k] is the gradient of KL(pi || pi_ref) for k1 and k3. In both, d is taken at the
states that were visited; that the policy also decides which states are visited is left out of a loss, and is what a
reward adds: there E[k1 grad l] summed over later tokens is the gradient of the divergence of whole completions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.kl import Estimator, KlInLoss, KlInReward, KlPenalty
from plumbline_trainer.objectives.policy.inputs import LARGEST_LOG_RATIO, PolicyLoss, PolicyTokens, TokenLosses
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric

KL_PENALTIES: Registry[PolicyLoss] = Registry(KlPenalty)
"""What each penalty adds to the losses of tokens."""

LARGEST_CHANGE = 0.2
"""A coefficient that follows a target reacts to no larger relative error."""


@KL_PENALTIES.implements(KlInLoss)
def kl_in_loss(parameters: KlInLoss, tokens: PolicyTokens) -> TokenLosses:
    """coefficient k of every token [B, T]; with importance weights, coefficient r k.

    r is the ratio to the policy before the rollout's updates, so that means are those under the present policy. That
    of k1 and k3 is differentiated: k grad r = k r grad l makes the whole gradient that of KL(pi || pi_ref). k2 has that
    gradient by itself, so its r carries none. Raises `ValueError` without log-probabilities of the reference.
    """
    if tokens.reference_logprobs is None:
        raise ValueError("a KL penalty needs log-probabilities of the reference")
    estimate = kl_estimate(parameters.estimator, tokens.inside(tokens.reference_logprobs - tokens.logprobs))
    metrics = {"kl": Metric.mean_of(estimate, tokens.mask)}
    if parameters.importance_weighted:
        ratio = tokens.ratio.detach() if parameters.estimator == "k2" else tokens.ratio
        estimate = ratio * estimate
    return tokens.inside(parameters.coefficient * estimate), metrics


@KL_PENALTIES.implements(KlInReward)
def kl_in_reward(parameters: KlInReward, tokens: PolicyTokens) -> TokenLosses:
    """Nothing: the penalty is in the advantages, by `kl_rewards`."""
    return torch.zeros_like(tokens.logprobs), {}


def kl_estimate(estimator: Estimator, difference: Tensor) -> Tensor:
    """The estimate of KL(pi || pi_ref) from d = log pi_ref - log pi of any shape; d is cut off at 20 in e^d."""
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return difference.clamp(max=LARGEST_LOG_RATIO).exp() - difference - 1


def kl_rewards(
    parameters: KlInReward, coefficient: float, logprobs: Tensor, reference: Tensor, mask: Tensor
) -> tuple[Tensor, Metric]:
    """Rewards of tokens, -coefficient k, float64 [N, T] and 0 outside `mask`; and the mean divergence of a completion.

    `logprobs` and `reference` [N, T] are those of the policy that sampled and of the reference, `mask` [N, T] bool. The
    divergence is the estimate summed over a completion's tokens, in nats.
    """
    difference = torch.where(mask, reference.double() - logprobs.double(), 0.0)
    estimate = torch.where(mask, kl_estimate(parameters.estimator, difference), 0.0)
    return -coefficient * estimate, Metric.mean_of(estimate.sum(dim=1))


def next_kl_coefficient(parameters: KlInReward, coefficient: float, divergence: float, completions: float) -> float:
    """The coefficient after a rollout of `completions` whose mean divergence was `divergence`, in nats a completion.

    beta (1 + e n / horizon), e = clip(divergence / target - 1, -0.2, 0.2): Ziegler et al. 2019, arXiv:1909.08593, sec.
    2.2, whose gain of 0.1 is written as the n completions of a rollout over a horizon, as in the code of the paper. The
    factor is taken as at least 0, for rollouts larger than the horizon. Without `adaptive` nothing changes.
    """
    if parameters.adaptive is None:
        return coefficient
    error = divergence / parameters.adaptive.target - 1
    bounded = min(max(error, -LARGEST_CHANGE), LARGEST_CHANGE)
    return coefficient * max(0.0, 1 + bounded * completions / parameters.adaptive.horizon)
