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
        order = self._index.argsort(stable=True)
        members = torch.bincount(self._index, minlength=self._count)
        firsts = members.cumsum(0) - members
        self._place = torch.empty_like(order)
        self._place[order] = torch.arange(len(order), device=order.device) - firsts[self._index[order]]
        self._width = int(members.max()) if len(order) else 0
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

    def nth_lowest(self, values: Tensor, place: Tensor) -> Tensor:
        """The entry at `place` (int64 [N], from 0) of the group's sorted valid `values` [N]."""
        return self.table(values, torch.inf).sort(dim=1).values[self._index, place]

    def table(self, values: Tensor, empty: float) -> Tensor:
        """[C, S]: a row for each of the C groups with the `values` [N] of its members in order, `empty` where a member
        is not valid or a group has fewer than the S of the largest."""
        table = torch.full((self._count, self._width), empty, dtype=values.dtype, device=values.device)
        table[self._index[self._valid], self._place[self._valid]] = values[self._valid]
        return table

    def of_table(self, table: Tensor) -> Tensor:
        """[N] from `table` [C, S]: the entry of each completion, or of its group where the table is [C, 1]."""
        return table.expand(-1, self._width)[self._index, self._place]

    def _extreme(self, values: Tensor, start: float, how: str) -> Tensor:
        found = torch.full((self._count,), start, dtype=values.dtype, device=values.device)
        found.scatter_reduce_(0, self._index[self._valid], values[self._valid], how)
        return found[self._index]
