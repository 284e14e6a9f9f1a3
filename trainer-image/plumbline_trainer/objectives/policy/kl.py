"""Penalties on the divergence of the policy from the reference."""

from __future__ import annotations

import torch

from plumbline_api.methods.kl import KlInLoss, KlPenalty
from plumbline_trainer.objectives.policy.inputs import PolicyLoss, PolicyTokens, TokenLosses
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric

KL_PENALTIES: Registry[PolicyLoss] = Registry(KlPenalty)


@KL_PENALTIES.implements(KlInLoss)
def kl_in_loss(parameters: KlInLoss, tokens: PolicyTokens) -> TokenLosses:
    """coefficient (e^d - d - 1) of every token [B, T], d = log pi_ref - log pi.

    The k3 estimator (Schulman 2020, "Approximating KL divergence"): its mean over samples of the policy is the KL
    divergence, and it is never negative. Used as a loss, as in GRPO (arXiv:2402.03300, eq. 4). Raises `ValueError`
    without log-probabilities of the reference.
    """
    if tokens.reference_logprobs is None:
        raise ValueError("a KL penalty needs log-probabilities of the reference")
    difference = torch.where(tokens.mask, tokens.reference_logprobs - tokens.logprobs, 0.0)
    k3 = difference.exp() - difference - 1
    return parameters.coefficient * k3, {"kl": Metric.mean_of(k3, tokens.mask)}
