"""Metrics that survive any split of a batch: a total and a count, summed first and divided once.

An objective returns `dict[str, Metric]`; micro-batches and ranks are merged by `merge`, and `value` is taken at the
end of the step. Totals stay tensors, so that nothing waits for the device inside a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

Scalar = torch.Tensor | float


@dataclass(frozen=True)
class Metric:
    """A sum over items and the number of items; the mean is their quotient."""

    total: Scalar
    count: Scalar

    def __add__(self, other: Metric) -> Metric:
        return Metric(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """The mean; NaN where nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")

    @classmethod
    def mean_of(cls, values: torch.Tensor, weights: torch.Tensor | None = None) -> Metric:
        """Mean over all elements of `values` (any shape), optionally weighted (same shape)."""
        values = values.detach()
        if weights is None:
            return cls(values.sum(dtype=torch.float64), float(values.numel()))
        weights = weights.detach().to(values.dtype)
        return cls((values * weights).sum(dtype=torch.float64), weights.sum(dtype=torch.float64))


Metrics = Mapping[str, Metric]


def merge(parts: Iterable[Metrics]) -> dict[str, Metric]:
    """Sums metrics of the same name over micro-batches or ranks."""
    merged: dict[str, Metric] = {}
    for part in parts:
        for name, metric in part.items():
            merged[name] = merged[name] + metric if name in merged else metric
    return merged
