"""Baselines out of the rewards of a prompt's samples, and none at all."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.advantage.group import (
    GreedyBaseline,
    GroupRelative,
    LeaveOneOut,
    LengthWeightedBaseline,
    NoBaseline,
    QuantileBaseline,
)
from plumbline_trainer.advantages.registry import ESTIMATORS
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout


@ESTIMATORS.implements(GroupRelative)
def group_relative(parameters: GroupRelative, rollout: JudgedRollout) -> Tensor:
    """(R - mean) / (std + epsilon) within the group; GRPO (Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2).

    `std` is the sample standard deviation, divided by n - 1. The paper does not say which one it means; n - 1 is what
    torch computes by default and what the open implementations of GRPO therefore use. With `normalize: batchStd` it is
    taken over all rewards of the rollout instead of the group's. With `normalize: none` the centred reward stays as it
    is (Liu et al. 2025, arXiv:2503.20783, sec. 3.2). A group with fewer than two valid completions has nothing to
    compare: its advantages are 0.
    """
    group = Groups(rollout.groups, rollout.valid)
    centred = centred_in(group, rollout.rewards, rollout.valid)
    if parameters.normalize == "none":
        return centred
    over = group if parameters.normalize == "std" else Groups(torch.zeros_like(rollout.groups), rollout.valid)
    return centred / (over.deviation(rollout.rewards) + parameters.epsilon)


@ESTIMATORS.implements(LeaveOneOut)
def leave_one_out(parameters: LeaveOneOut, rollout: JudgedRollout) -> Tensor:
    """R minus the mean reward of the group's other completions (Ahmadian et al. 2024, arXiv:2402.14740, eq. 8).

    Equal to n / (n - 1) times the centred reward. A group with fewer than two valid completions has no others: its
    advantages are 0.
    """
    group = Groups(rollout.groups, rollout.valid)
    of_others = (group.sum(rollout.rewards) - rollout.rewards) / (group.size - 1).clamp(min=1)
    return torch.where(rollout.valid & group.differs(rollout.rewards), rollout.rewards - of_others, 0.0)


@ESTIMATORS.implements(NoBaseline)
def no_baseline(parameters: NoBaseline, rollout: JudgedRollout) -> Tensor:
    """The reward itself."""
    return torch.where(rollout.valid, rollout.rewards, 0.0)


@ESTIMATORS.implements(LengthWeightedBaseline)
def length_weighted_baseline(parameters: LengthWeightedBaseline, rollout: JudgedRollout) -> Tensor:
    """R - sum_i |y_i| R_i / sum_i |y_i| over the group; OPO (Hao et al. 2025, arXiv:2505.23585).

    The baseline b that minimises the variance of (R - b) s, s the score (the gradient of the completion's
    log-probability), is E[|s|^2 R] / E[|s|^2]: set the derivative of E[|s|^2 (R - b)^2] to 0. Scores of tokens are
    uncorrelated, so |s|^2 grows with length where all tokens have scores of about the same size, which gives the
    weights. In the sum over the group a completion is part of its own baseline, as in the paper.
    """
    group = Groups(rollout.groups, rollout.valid)
    lengths = rollout.lengths.double()
    baseline = group.sum(lengths * rollout.rewards) / group.sum(lengths).clamp(min=1)
    return torch.where(rollout.valid & group.differs(rollout.rewards), rollout.rewards - baseline, 0.0)


@ESTIMATORS.implements(QuantileBaseline)
def quantile_baseline(parameters: QuantileBaseline, rollout: JudgedRollout) -> Tensor:
    """(R - Q_K) / (std + epsilon), Q_K the K-quantile of the group; QAE (Wu et al. 2025, arXiv:2509.22611).

    Q_K = inf{r : F(r) >= K} with F the empirical distribution: the n-th of the sorted rewards with n = ceil(K G). Not
    interpolated: for rewards 0 and 1 it is 0 exactly where the success rate p is at most 1 - K, so that failures of
    such hard prompts have advantage 0, and 1 elsewhere, so that successes of easy prompts have. `std` is the sample
    standard deviation, as in `group_relative`.
    """
    group = Groups(rollout.groups, rollout.valid)
    # the product is off by an ulp or so for counts such as 0.1 * 30, which must not reach the next integer
    place = (parameters.quantile * group.size - 1e-9).ceil().long().clamp(min=1) - 1
    signal = rollout.valid & group.differs(rollout.rewards)
    difference = torch.where(signal, rollout.rewards - group.nth_lowest(rollout.rewards, place), 0.0)
    if parameters.normalize == "none":
        return difference
    return difference / (group.deviation(rollout.rewards) + parameters.epsilon)


@ESTIMATORS.implements(GreedyBaseline)
def greedy_baseline(parameters: GreedyBaseline, rollout: JudgedRollout) -> Tensor:
    """R minus the reward of the prompt's greedy completion; ReMax (Li et al. 2023, arXiv:2310.10505).

    The greedy completion does not depend on the sample, so the baseline leaves the gradient unbiased. That holds too
    where shaping and penalties move R, which the greedy reward does not have: the baseline is off-centre then. 0 where
    it could not be judged. Raises `ValueError` without rewards of greedy completions.
    """
    if rollout.greedy_rewards is None:
        raise ValueError("the ReMax baseline needs rewards of greedy completions")
    judged = rollout.valid & ~rollout.greedy_rewards.isnan()
    return torch.where(judged, rollout.rewards - rollout.greedy_rewards, 0.0)


def centred_in(group: Groups, values: Tensor, valid: Tensor) -> Tensor:
    """`values` [N] minus the mean of their group; exactly 0 where not `valid` or where the group's are all the same."""
    return torch.where(valid & group.differs(values), values - group.mean(values), 0.0)
