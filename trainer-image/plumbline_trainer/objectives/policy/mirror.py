"""Objectives of mirror learning: an importance ratio with a drift that is 0 at the policy before the updates."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.mirror import Discovered, Mdpo
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout


@PREPARATIONS.implements(Mdpo)
def divergence_weight(parameters: Mdpo, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """`divergence_weight` [N]: 1/t, with t = stepSize (1 - step / steps) or stepSize; the same for all completions."""
    left = 1 - rollout.step / rollout.steps if parameters.anneal == "linear" else 1.0
    return {"divergence_weight": torch.full_like(advantages[:, 0], 1 / (parameters.step_size * left))}


@implements(Mdpo)
def mdpo(parameters: Mdpo, tokens: PolicyTokens) -> TokenLosses:
    """-r A + (1/t) (r log r - r + 1) of every token (Tomar et al. 2020, arXiv:2005.09814, on-policy form).

    r is the ratio to the policy pi_k before the rollout's updates. Averaged over tokens of pi_k, r log r - r + 1 is
    KL(pi || pi_k), with its gradient, and is never negative. The minimum is pi_k exp(t A) / Z, which several updates on
    the same rollout approach without a clip.
    """
    ratio = tokens.ratio
    drift = ratio * tokens.log_ratio - ratio + 1
    weight = tokens.prepared["divergence_weight"].to(ratio)[:, None]
    losses = weight * drift - ratio * tokens.inside(tokens.advantages)
    metrics = {"ratio": Metric.mean_of(ratio, tokens.mask), "divergence": Metric.mean_of(drift, tokens.mask)}
    return tokens.inside(losses), metrics


@implements(Discovered)
def discovered(parameters: Discovered, tokens: PolicyTokens) -> TokenLosses:
    """-(r A - f) of every token, with the drift f of Lu et al. 2022, arXiv:2210.05639:

    A >= 0:  f = relu((r - 1) A - alpha tanh((r - 1) A / alpha))
    A < 0:   f = relu(log(r) A - beta tanh(log(r) A / beta))

    x - c tanh(x / c) is about x^3 / (3 c^2) near 0, so drift and gradient are 0 at r = 1, and about x - c far out, so
    the surrogate levels off smoothly where PPO's clip cuts its gradient off.
    """
    ratio, advantages = tokens.ratio, tokens.inside(tokens.advantages)
    rising, falling = (ratio - 1) * advantages, tokens.log_ratio * advantages
    alpha, beta = parameters.positive_width, parameters.negative_width
    drift = torch.where(
        advantages >= 0,
        torch.relu(rising - alpha * torch.tanh(rising / alpha)),
        torch.relu(falling - beta * torch.tanh(falling / beta)),
    )
    metrics = {"ratio": Metric.mean_of(ratio, tokens.mask), "drift": Metric.mean_of(drift, tokens.mask)}
    return tokens.inside(drift - ratio * advantages), metrics
