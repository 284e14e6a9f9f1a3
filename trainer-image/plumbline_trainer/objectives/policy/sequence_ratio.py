"""Objectives with one importance ratio a completion."""

from __future__ import annotations

import math

import torch

from plumbline_api.methods.policy.sequence_ratio import Gmpo, Gspo, GspoToken, Luspo, Topr, Vespo
from plumbline_trainer.objectives.policy.clipped import clipped_surrogate
from plumbline_trainer.objectives.policy.inputs import LARGEST_LOG_RATIO, PolicyTokens, TokenLosses
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric

LEAST_LOG_WEIGHT = math.log(1e-8)
"""VESPO's weight of a completion is not taken below this ratio."""


@implements(Gspo)
def gspo(parameters: Gspo, tokens: PolicyTokens) -> TokenLosses:
    """Clipped s = exp(mean_t log r_t) of every completion, written to its tokens (Zheng et al. 2025, arXiv:2507.18071,
    sec. 4.1).

    Clipping switches off a completion as a whole: under the `sequenceMean` aggregation it counts once. Where its
    advantages differ along the completion, their mean counts.
    """
    return clipped_surrogate(parameters, tokens, _mean_ratio(tokens))


@implements(GspoToken)
def gspo_token(parameters: GspoToken, tokens: PolicyTokens) -> TokenLosses:
    """GSPO with the gradient of each token's own log-probability (Zheng et al. 2025, arXiv:2507.18071, sec. 4.3).

    The ratio of token t is sg(s) exp(l_t - sg(l_t)), sg the stop-gradient: its value is that of the completion, its
    gradient s times the token's. A constant advantage gives sum_t s A grad l_t / T in both variants.
    """
    own = tokens.inside(tokens.logprobs - tokens.logprobs.detach()).exp()
    return clipped_surrogate(parameters, tokens, _mean_ratio(tokens).detach() * own)


@implements(Luspo)
def luspo(parameters: Luspo, tokens: PolicyTokens) -> TokenLosses:
    """GSPO, by default summed over tokens: each completion's loss counts as often as it has tokens (arXiv:2602.05261).

    The gradient of s is the mean of those of the tokens, so in GSPO a token of a long completion moves less.
    """
    return clipped_surrogate(parameters, tokens, _mean_ratio(tokens))


@implements(Gmpo)
def gmpo(parameters: Gmpo, tokens: PolicyTokens) -> TokenLosses:
    """-A exp(mean_t c_t), written to the completion's tokens (Zhao et al. 2025, arXiv:2507.20673).

    c_t is the token's log-ratio, cut off at `clip_high` above where A > 0 and at -`clip_low` below where A < 0: as in
    PPO, on the side on which the advantage pushes it, and before the mean. One outlier then moves the product of ratios
    by at most e^clip. A is the completion's advantage, the mean where it differs along the completion.
    """
    advantages = tokens.mean_of(tokens.advantages)
    log_ratio = tokens.log_ratio
    clipped = torch.where(
        advantages > 0, log_ratio.clamp(max=parameters.clip_high), log_ratio.clamp(min=-parameters.clip_low)
    )
    weight = tokens.mean_of(clipped).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    low, high = log_ratio < -parameters.clip_low, log_ratio > parameters.clip_high
    metrics = {
        "ratio": Metric.mean_of(weight.expand(tokens.mask.shape), tokens.mask),
        "clip_share/low": Metric.mean_of((low & (advantages < 0)).float(), tokens.mask),
        "clip_share/high": Metric.mean_of((high & (advantages > 0)).float(), tokens.mask),
    }
    return tokens.inside(-advantages * weight), metrics


@implements(Topr)
def topr(parameters: Topr, tokens: PolicyTokens) -> TokenLosses:
    """-A log pi where A >= 0, and -sg(min(w, 1)) A log pi where A < 0, w the ratio of the whole completion (Le Roux et
    al. 2025, arXiv:2503.14286, sec. 3).

    A good completion is imitated whether or not the policy still makes it; a bad one is let go of as it becomes rare,
    which bounds the objective. sg is the stop-gradient. On-policy, w = 1 and this is REINFORCE.
    """
    weight = tokens.log_ratio.detach().sum(dim=1, keepdim=True).clamp(max=0.0).exp()
    advantages = tokens.inside(tokens.advantages)
    taken = torch.where(advantages < 0, weight, 1.0)
    losses = -taken * advantages * tokens.inside(tokens.logprobs)
    return losses, {"importance_weight": Metric.mean_of(taken, tokens.mask)}


@implements(Vespo)
def vespo(parameters: Vespo, tokens: PolicyTokens) -> TokenLosses:
    """-sg(phi(w)) A log pi, phi(w) = e^lambda w^k e^(-lambda w), w the ratio of the completion (arXiv:2602.10693).

    phi is the density of a gamma distribution up to a factor that makes phi(1) = 1. It falls to both sides of its
    peak at w = k / lambda; k and lambda depend on the sign of A. Computed in logs; w is not taken below 1e-8.
    """
    log_ratio = tokens.log_ratio.detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    log_weight = log_ratio.sum(dim=1, keepdim=True).clamp(LEAST_LOG_WEIGHT, LARGEST_LOG_RATIO)
    advantages = tokens.inside(tokens.advantages)
    negative = advantages < 0
    power = torch.where(negative, parameters.k_negative, parameters.k_positive)
    decay = torch.where(negative, parameters.lambda_negative, parameters.lambda_positive)
    phi = (decay + power * log_weight - decay * log_weight.exp()).exp()
    losses = -phi * advantages * tokens.inside(tokens.logprobs)
    return losses, {"importance_weight": Metric.mean_of(phi, tokens.mask)}


def _mean_ratio(tokens: PolicyTokens) -> torch.Tensor:
    """[B, 1]: the geometric mean of each completion's token ratios."""
    return tokens.mean_of(tokens.log_ratio).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
