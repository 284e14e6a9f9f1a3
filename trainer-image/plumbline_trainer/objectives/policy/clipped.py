"""Objectives with a clipped importance ratio of single tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.clipped import (
    ClippedRatioObjective,
    Dapo,
    DrGrpo,
    DualClippedRatioObjective,
    Grpo,
    Ppo,
)
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Grpo)
def grpo(parameters: Grpo, tokens: PolicyTokens) -> TokenLosses:
    """Clipped token ratios; by default averaged per completion first (Shao et al. 2024, arXiv:2402.03300, eq. 3)."""
    return clipped_ratio(parameters, tokens)


@implements(DrGrpo)
def dr_grpo(parameters: DrGrpo, tokens: PolicyTokens) -> TokenLosses:
    """Clipped token ratios; by default divided by a constant (Liu et al. 2025, arXiv:2503.20783, sec. 3.2).

    Dividing by the completion's own length, as GRPO does, makes long wrong completions cheap; a constant does not.
    """
    return clipped_ratio(parameters, tokens)


@implements(Ppo)
def ppo(parameters: Ppo, tokens: PolicyTokens) -> TokenLosses:
    """Clipped token ratios; by default averaged over all tokens (Schulman et al. 2017, arXiv:1707.06347, eq. 7)."""
    return clipped_ratio(parameters, tokens)


@implements(Dapo)
def dapo(parameters: Dapo, tokens: PolicyTokens) -> TokenLosses:
    """Clipped token ratios, by default with more room above than below (Yu et al. 2025, arXiv:2503.14476, eq. 8, 10).

    A symmetric bound holds unlikely tokens down: at 1.2 one of probability 0.01 may rise by 0.002 in a rollout's
    updates, one of 0.9 by 0.18.
    """
    return clipped_ratio(parameters, tokens)


def clipped_ratio(parameters: ClippedRatioObjective, tokens: PolicyTokens) -> TokenLosses:
    """The clipped surrogate of every token by its own ratio, see `clipped_surrogate`."""
    return clipped_surrogate(parameters, tokens, tokens.ratio)


def clipped_surrogate(parameters: ClippedRatioObjective, tokens: PolicyTokens, ratio: Tensor) -> TokenLosses:
    """-min(r A, clip(r, 1 - low, 1 + high) A) of every token, r its `ratio` [B, T] or that of its completion [B, 1].

    r is the ratio of the probability under the policy to that before the rollout's updates (PPO's surrogate: Schulman
    et al. 2017, arXiv:1707.06347, eq. 7; separate bounds: Yu et al. 2025, arXiv:2503.14476, eq. 10). The clip metrics
    count the tokens whose gradient the clipping switches off, at each bound.

    Where A < 0 the minimum bounds nothing: the loss -r A grows with r. With `dual_clip` c it stays at -c A from r = c
    on (Ye et al. 2020, arXiv:1912.09729, eq. 4). Two-sided clipping, min(r, delta) in the unclipped term
    (arXiv:2505.07291), is the same function for delta = c >= 1 + high: where A > 0 the bound 1 + high is reached first,
    and where A < 0 both are -A max(min(r, c), clip(r)).
    """
    low, high = 1.0 - parameters.clip_low, 1.0 + parameters.clip_high
    advantages = tokens.inside(tokens.advantages)
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    ratio = ratio.expand(tokens.mask.shape)
    metrics = {
        "ratio": Metric.mean_of(ratio, tokens.mask),
        "clip_share/low": Metric.mean_of(((ratio < low) & (advantages < 0)).float(), tokens.mask),
        "clip_share/high": Metric.mean_of(((ratio > high) & (advantages > 0)).float(), tokens.mask),
    }
    if isinstance(parameters, DualClippedRatioObjective) and parameters.dual_clip is not None:
        bound = parameters.dual_clip
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, bound * advantages), surrogate)
        metrics["clip_share/dual"] = Metric.mean_of(((ratio > bound) & (advantages < 0)).float(), tokens.mask)
    return tokens.inside(-surrogate), metrics
