"""Baselines out of the rewards of a prompt's samples, and none at all."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.advantage.group import GroupRelative, LeaveOneOut, NoBaseline
from plumbline_trainer.advantages.registry import ESTIMATORS
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout


@ESTIMATORS.implements(GroupRelative)
def group_relative(parameters: GroupRelative, rollout: JudgedRollout) -> Tensor:
    """(R - mean) / (std + epsilon) within the group; GRPO (Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2).

    `std` is the sample standard deviation, divided by n - 1. The paper does not say which one it means; n - 1 is what
    torch computes by default and what the open implementations of GRPO therefore use. With `normalize: none` the
    centred reward stays as it is (Liu et al. 2025, arXiv:2503.20783, sec. 3.2). A group with fewer than two valid
    completions has nothing to compare: its advantages are 0.
    """
    group = Groups(rollout.groups, rollout.valid)
    signal = rollout.valid & group.differs(rollout.rewards)
    centred = torch.where(signal, rollout.rewards - group.mean(rollout.rewards), 0.0)
    if parameters.normalize == "none":
        return centred
    return centred / (group.deviation(rollout.rewards) + parameters.epsilon)


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
