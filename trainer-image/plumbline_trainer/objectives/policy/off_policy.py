"""Weights of token losses where another policy has sampled than the one that importance ratios start from.

An objective's ratio compares the policy with the one before the rollout's updates, as the trainer computes it. The
sampler may have used other numbers: an engine with its own rounding, or weights of some steps ago. The factor that is
missing in the importance weight is pi_old / pi_sampler; a correction is that factor, tamed. It carries no gradient and
multiplies the objective's losses, not penalties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.off_policy import Level, Masked, OffPolicyCorrection, StaleMasked, Truncated
from plumbline_trainer.objectives.policy.inputs import LARGEST_LOG_RATIO, PolicyTokens
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric

Correction = Callable[[Any, PolicyTokens], tuple[Tensor, dict[str, Metric]]]
"""(parameters, tokens) -> weights [B, T] without gradient, 0 outside the mask, and metrics."""

CORRECTIONS: Registry[Correction] = Registry(OffPolicyCorrection)

WEIGHT = "off_policy/weight"
SQUARED_WEIGHT = "off_policy/squared_weight"


@CORRECTIONS.implements(Truncated)
def truncated(parameters: Truncated, tokens: PolicyTokens) -> tuple[Tensor, dict[str, Metric]]:
    """min(rho, bound), rho = pi_old / pi_sampler (truncated importance sampling; Ionides 2008).

    Biased towards the sampler's policy, by no more than what is cut off; the variance is bounded.
    """
    ratio = sampler_ratio(parameters.level, tokens)
    return _weights(tokens, ratio.clamp(max=parameters.bound), left=ratio > parameters.bound)


@CORRECTIONS.implements(Masked)
def masked(parameters: Masked, tokens: PolicyTokens) -> tuple[Tensor, dict[str, Metric]]:
    """rho where low <= rho <= high, else 0 (IcePop; Ling team 2025, arXiv:2510.18855).

    A token on whose probability trainer and sampler disagree widely is one whose gradient is not to be trusted.
    """
    ratio = sampler_ratio(parameters.level, tokens)
    outside = (ratio < parameters.low) | (ratio > parameters.high)
    return _weights(tokens, torch.where(outside, 0.0, ratio), left=outside)


@CORRECTIONS.implements(StaleMasked)
def stale_masked(parameters: StaleMasked, tokens: PolicyTokens) -> tuple[Tensor, dict[str, Metric]]:
    """0 where A < 0 and mean_t(log pi_sampler - log pi) > threshold, else 1 (DeepSeek-V3.2 2025, arXiv:2512.02556).

    pi is the present policy: the mean estimates how far it has come from the sampler, by updates and by rounding.
    """
    distance = tokens.mean_of(_sampled(tokens) - tokens.logprobs.detach())
    dropped = (tokens.inside(tokens.advantages) < 0) & (distance > parameters.threshold)
    return _weights(tokens, torch.where(dropped, 0.0, torch.ones_like(tokens.logprobs.detach())), left=dropped)


def sampler_ratio(level: Level, tokens: PolicyTokens) -> Tensor:
    """pi_old / pi_sampler without gradient: [B, T] of tokens, or [B, 1] of completions.

    Raises `ValueError` without the sampler's log-probabilities.
    """
    difference = tokens.inside(tokens.proximal_logprobs.detach() - _sampled(tokens))
    if level == "sequence":
        difference = tokens.sum_of(difference)
    elif level == "geometricMean":
        difference = tokens.mean_of(difference)
    return difference.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def effective_share(metrics: dict[str, Metric]) -> float:
    """The effective sample size over the number of samples, (mean w)^2 / mean w^2 of a step's merged metrics.

    1 for equal weights; NaN where a correction was not used or all weights are 0.
    """
    if WEIGHT not in metrics or not float(metrics[SQUARED_WEIGHT].total):
        return float("nan")
    return metrics[WEIGHT].value ** 2 / metrics[SQUARED_WEIGHT].value


def _sampled(tokens: PolicyTokens) -> Tensor:
    if tokens.sampled_logprobs is None:
        raise ValueError("an off-policy correction needs the log-probabilities of the sampler")
    return tokens.sampled_logprobs


def _weights(tokens: PolicyTokens, weights: Tensor, *, left: Tensor) -> tuple[Tensor, dict[str, Metric]]:
    """`weights` [B, T] or [B, 1] at tokens; `left` says where a bound was in force."""
    by_token = tokens.inside(weights)
    return by_token, {
        WEIGHT: Metric.mean_of(by_token, tokens.mask),
        SQUARED_WEIGHT: Metric.mean_of(by_token.square(), tokens.mask),
        "off_policy/bounded_share": Metric.mean_of(left.expand(tokens.mask.shape).float(), tokens.mask),
    }
