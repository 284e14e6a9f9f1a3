"""Normalisation over the whole rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.advantage.batch import BatchNormalized, GroupBatchNormalized, RewardDecoupled
from plumbline_trainer.advantages.group import centred_in
from plumbline_trainer.advantages.recursions import backward_sums, token_rewards, whitened
from plumbline_trainer.advantages.registry import ESTIMATORS
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout


@ESTIMATORS.implements(BatchNormalized)
def batch_normalized(parameters: BatchNormalized, rollout: JudgedRollout) -> Tensor:
    """(G_t - mean) / std over all tokens [N, T]; REINFORCE++ (Hu et al. 2025, arXiv:2501.03262).

    G_t is the sum of rewards from token t on: the completion's reward, and rewards of single tokens such as a KL
    penalty. Mean and variance (of the population) run over tokens, so that a long completion counts more.
    """
    returns = backward_sums(token_rewards(rollout), 1.0)
    return whitened(returns, rollout.mask & rollout.valid[:, None], parameters.epsilon)


@ESTIMATORS.implements(GroupBatchNormalized)
def group_batch_normalized(parameters: GroupBatchNormalized, rollout: JudgedRollout) -> Tensor:
    """(R - mean of the group), then whitened over all tokens [N, T]; REINFORCE++ with baseline (arXiv:2501.03262).

    Tokens of groups without difference count in the statistics and have advantage 0: whitening alone would give them
    minus the mean, which is not 0 where right and wrong completions differ in length.
    """
    group = Groups(rollout.groups, rollout.valid)
    centred = centred_in(group, rollout.rewards, rollout.valid)
    returns = centred[:, None] + _later_token_rewards(rollout)
    scaled = whitened(returns, rollout.mask & rollout.valid[:, None], parameters.epsilon)
    if rollout.token_rewards is not None:
        return scaled
    return torch.where(group.differs(rollout.rewards)[:, None], scaled, 0.0)


@ESTIMATORS.implements(RewardDecoupled)
def reward_decoupled(parameters: RewardDecoupled, rollout: JudgedRollout) -> Tensor:
    """Standardise each component k in its group, S = sum_k w_k z_k, then (S - mean) / (std + epsilon) over the rollout;
    GDPO (Liu et al. 2026, arXiv:2601.05242). [N].

    z_k = (R_k - mean_k) / (std_k + epsilon) with sample standard deviations. A component that failed for a completion
    adds nothing to it and enters no statistic. With a single component of weight 1 it is GRPO's advantage, scaled. A
    group in which no component differs has S = 0 for all its completions, and keeps advantage 0: the mean of all S is
    0 by construction wherever no component failed. Raises `ValueError` without components and their weights.
    """
    if not rollout.components or not rollout.components.keys() <= rollout.weights.keys():
        raise ValueError("decoupled rewards need the components of the reward and their weights")
    total = torch.zeros_like(rollout.rewards)
    for name, component in rollout.components.items():
        there = rollout.valid & ~component.isnan()
        group = Groups(rollout.groups, there)
        centred = centred_in(group, component, there)
        total = total + rollout.weights[name] * centred / (group.deviation(component) + parameters.epsilon)
    everyone = Groups(torch.zeros_like(rollout.groups), rollout.valid)
    # exact zeros of groups without signal stay zeros: what is subtracted is rounding
    signal = rollout.valid & Groups(rollout.groups, rollout.valid).differs(total)
    return torch.where(signal, total - everyone.mean(total), 0.0) / (everyone.deviation(total) + parameters.epsilon)


def _later_token_rewards(rollout: JudgedRollout) -> Tensor:
    """[N, T]: rewards of single tokens, summed from each token to the end; 0 without any."""
    if rollout.token_rewards is None:
        return torch.zeros(rollout.mask.shape, dtype=torch.float64)
    return backward_sums(torch.where(rollout.mask & rollout.valid[:, None], rollout.token_rewards, 0.0), 1.0)
