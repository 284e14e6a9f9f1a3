"""Statistics of a rollout's groups, written back to every member; no loop over groups."""

from __future__ import annotations

import torch
from torch import Tensor


class Groups:
    """The groups of N completions, of which only the valid ones count.

    `groups` is int64 [N] (any ids, in any order), `valid` bool [N]. Every result is [N]: the statistic of the
    completion's own group.
    """

    def __init__(self, groups: Tensor, valid: Tensor) -> None:
        ids, self._index = torch.unique(groups, return_inverse=True)
        self._count = len(ids)
        self._valid = valid
        self.size = self.sum(torch.ones_like(groups, dtype=torch.float64))
        """Valid completions of the group."""

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` [N] over the group."""
        values = torch.where(self._valid, values, 0.0)
        totals = torch.zeros(self._count, dtype=values.dtype, device=values.device)
        return totals.index_add_(0, self._index, values)[self._index]

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` [N] over the group; 0 where nothing in it is valid."""
        return self.sum(values) / self.size.clamp(min=1)

    def deviation(self, values: Tensor) -> Tensor:
        """Sample standard deviation (n - 1) of `values` [N]; 0 for fewer than two."""
        centred = torch.where(self._valid, values - self.mean(values), 0.0)
        return (self.sum(centred.square()) / (self.size - 1).clamp(min=1)).sqrt()

    def lowest(self, values: Tensor) -> Tensor:
        """Least of `values` [N]; infinite where nothing is valid."""
        return self._extreme(values, torch.inf, "amin")

    def highest(self, values: Tensor) -> Tensor:
        """Greatest of `values` [N]; minus infinite where nothing is valid."""
        return self._extreme(values, -torch.inf, "amax")

    def differs(self, values: Tensor) -> Tensor:
        """Whether the group's values are not all the same; compared exactly, so rounding in a mean is no signal."""
        return self.highest(values) > self.lowest(values)

    def _extreme(self, values: Tensor, start: float, how: str) -> Tensor:
        found = torch.full((self._count,), start, dtype=values.dtype, device=values.device)
        found.scatter_reduce_(0, self._index[self._valid], values[self._valid], how)
        return found[self._index]
