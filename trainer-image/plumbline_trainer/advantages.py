"""Advantage estimators: pure functions from a step's rewards to one advantage a completion.

Every estimator sees three tensors of shape [N], one entry a completion: `rewards` (float), `groups` (int64: which
completions answer the same prompt; any ids, in any order) and `valid` (bool: false where no reward exists because a
verifier failed). It returns float64 [N]. Completions that are not valid get 0 and enter no baseline, so what a
verifier could not judge neither moves the policy nor the yardstick of its group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.policy import Advantage, GroupRelative, LeaveOneOut, NoBaseline
from plumbline_trainer.registry import Registry

Estimator = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(parameters, rewards [N] float64, groups [N], valid [N]) -> advantages [N] float64."""

ESTIMATORS: Registry[Estimator] = Registry(Advantage)


def advantages(parameters: Advantage, rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """The advantages [N] (float64) of the estimator that `parameters` belongs to."""
    return ESTIMATORS.of(parameters)(parameters, rewards.double(), groups, valid.bool())


@ESTIMATORS.implements(GroupRelative)
def group_relative(parameters: GroupRelative, rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """(R - mean) / (std + epsilon) within the group; GRPO (Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2).

    `std` is the sample standard deviation, divided by n - 1. The paper does not say which one it means; n - 1 is what
    torch computes by default and what the open implementations of GRPO therefore use. With `normalize: none` the
    centred reward stays as it is (Liu et al. 2025, arXiv:2503.20783, sec. 3.2). A group with fewer than two valid
    completions has nothing to compare: its advantages are 0.
    """
    group = _GroupSums(groups, valid)
    centred = torch.where(valid, rewards - group.mean(rewards), 0.0)
    centred = torch.where(group.differs(rewards), centred, 0.0)
    if parameters.normalize == "none":
        return centred
    variance = group.sum(centred.square()) / (group.size - 1).clamp(min=1)
    return centred / (variance.sqrt() + parameters.epsilon)


@ESTIMATORS.implements(LeaveOneOut)
def leave_one_out(parameters: LeaveOneOut, rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """R minus the mean reward of the group's other completions (Ahmadian et al. 2024, arXiv:2402.14740, eq. 8).

    Equal to n / (n - 1) times the centred reward. A group with fewer than two valid completions has no others: its
    advantages are 0.
    """
    group = _GroupSums(groups, valid)
    of_others = (group.sum(rewards) - rewards) / (group.size - 1).clamp(min=1)
    return torch.where(valid & group.differs(rewards), rewards - of_others, 0.0)


@ESTIMATORS.implements(NoBaseline)
def no_baseline(parameters: NoBaseline, rewards: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """The reward itself."""
    return torch.where(valid, rewards, 0.0)


class _GroupSums:
    """Sums over the valid completions of each group, written back to every member; no loop over groups."""

    def __init__(self, groups: Tensor, valid: Tensor) -> None:
        ids, self._index = torch.unique(groups, return_inverse=True)
        self._count = len(ids)
        self._valid = valid
        self.size = self.sum(torch.ones_like(groups, dtype=torch.float64))

    def sum(self, values: Tensor) -> Tensor:
        values = torch.where(self._valid, values, 0.0)
        totals = torch.zeros(self._count, dtype=values.dtype, device=values.device)
        return totals.index_add_(0, self._index, values)[self._index]

    def mean(self, values: Tensor) -> Tensor:
        return self.sum(values) / self.size.clamp(min=1)

    def differs(self, values: Tensor) -> Tensor:
        """Whether the group's values are not all the same; compared exactly, so rounding in a mean is no signal."""
        lowest = torch.full((self._count,), torch.inf, dtype=values.dtype, device=values.device)
        highest = -lowest
        index = self._index[self._valid]
        lowest.scatter_reduce_(0, index, values[self._valid], "amin")
        highest.scatter_reduce_(0, index, values[self._valid], "amax")
        return (highest > lowest)[self._index]
