"""Objectives with a clipped importance ratio."""

from __future__ import annotations

import torch

from plumbline_api.methods.policy.clipped import ClippedRatioObjective, DrGrpo, Grpo
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


def clipped_ratio(parameters: ClippedRatioObjective, tokens: PolicyTokens) -> TokenLosses:
    """-min(r A, clip(r, 1 - low, 1 + high) A) of every token.

    r is the ratio of the token's probability under the policy to that before the rollout's updates (PPO's surrogate:
    Schulman et al. 2017, arXiv:1707.06347, eq. 7; separate bounds: Yu et al. 2025, arXiv:2503.14476, eq. 10). The clip
    metrics count the tokens whose gradient the clipping switches off, at each bound.
    """
    ratio = tokens.log_ratio.exp()
    low, high = 1.0 - parameters.clip_low, 1.0 + parameters.clip_high
    advantages = tokens.advantages
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    metrics = {
        "ratio": Metric.mean_of(ratio, tokens.mask),
        "clip_share/low": Metric.mean_of(((ratio < low) & (advantages < 0)).float(), tokens.mask),
        "clip_share/high": Metric.mean_of(((ratio > high) & (advantages > 0)).float(), tokens.mask),
    }
    return torch.where(tokens.mask, -surrogate, 0.0), metrics
