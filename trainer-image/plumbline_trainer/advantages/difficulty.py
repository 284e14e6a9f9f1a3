"""Estimators in which the success rate of a prompt decides how much its samples weigh."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.advantage.difficulty import DifficultyWeighted, MaximumLikelihood
from plumbline_trainer.advantages.group import centred_in
from plumbline_trainer.advantages.registry import ESTIMATORS
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout


@ESTIMATORS.implements(MaximumLikelihood)
def maximum_likelihood(parameters: MaximumLikelihood, rollout: JudgedRollout) -> Tensor:
    """(R - mean) / mean within the group, 0 where nothing succeeded; MaxRL (Tajwar et al. 2026, arXiv:2602.02710).

    What it estimates, for rewards 0 and 1 and success probability p: log p = -sum_k (1 - p)^k / k, so the gradient of
    the log-likelihood is sum_k grad pass@k / k. With n samples, K of them right, and scores s_i, the mean of A_i s_i
    is 1[K > 0] (sum over right ones of s_i / K - sum of s_i / n). The first part has expectation
    sum_{k <= n} grad pass@k / k. For the second, E[1[K = 0] sum s_i] = grad (1 - p)^n and E[sum s_i] = 0, so it takes
    away grad pass@n / n: the estimator is exact for the series up to k = n - 1. Raises `ConfigError` for a negative
    reward, with which the mean is no success rate.
    """
    negative = rollout.rewards[rollout.valid & (rollout.rewards < 0)]
    if len(negative):
        raise ConfigError(
            f"advantage.maxRl needs rewards that are not negative, but a completion has {float(negative[0]):g}"
        )
    group = Groups(rollout.groups, rollout.valid)
    mean = group.mean(rollout.rewards)
    return centred_in(group, rollout.rewards, rollout.valid) / torch.where(mean > 0, mean, 1.0)


@ESTIMATORS.implements(DifficultyWeighted)
def difficulty_weighted(parameters: DifficultyWeighted, rollout: JudgedRollout) -> Tensor:
    """w(p) (R - mean) / (std + epsilon), p the share of right completions of the group (Chen et al. 2025,
    arXiv:2505.13261).

    The paper weighs by a decreasing function of the group's accuracy; the functions here are ours: w = exp(s (1/2 - p))
    and w = 1 + s (1/2 - p), never negative, and 1 for strength s = 0 and for p = 1/2, so that the factor does not
    change the size of a step on prompts of medium difficulty.
    """
    group = Groups(rollout.groups, rollout.valid)
    advantage = centred_in(group, rollout.rewards, rollout.valid)
    if parameters.normalize == "std":
        advantage = advantage / (group.deviation(rollout.rewards) + parameters.epsilon)
    exponent = parameters.strength * (0.5 - group.mean(rollout.correct.double()))
    return advantage * (exponent.exp() if parameters.function == "exponential" else 1 + exponent)
