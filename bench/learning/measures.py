"""Figures of stored runs: pass@k, lengths of wrong answers, means and ranges over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from typing import Any

from bench.learning.records import Record


@dataclass(frozen=True)
class Spread:
    """Mean and range over seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises `ValueError` without values."""
        found = list(values)
        if not found:
            raise ValueError("a spread of nothing")
        return cls(sum(found) / len(found), min(found), max(found))

    def percent(self) -> str:
        """Such as `92.0 % (91.0 to 93.3)`."""
        return f"{100 * self.mean:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def number(self, digits: int = 2) -> str:
        """Such as `1.23 (1.00 to 1.50)`."""
        return f"{self.mean:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def pass_at(probe: Mapping[str, Any], k: int) -> float:
    """Mean over prompts of 1 - C(n - c, k) / C(n, k), the unbiased estimate of pass@k from n samples of which c are
    right (Chen et al. 2021, arXiv:2107.03374, eq. 1). Raises `ValueError` where k is above n."""
    samples, counts = probe["samples"], probe["right_of_prompts"]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples")
    found = sum(count * (1 - comb(samples - right, k) / comb(samples, k)) for right, count in enumerate(counts))
    return float(found / sum(counts))


def wrong_tails(one: Record) -> list[float | None]:
    """Mean dots behind wrong answers in each stretch of a run on tails; None in a stretch without wrong answers.

    The component's mean over all answers, in which right ones count 0, over the share of wrong answers.
    """
    pairs = zip(one.curves["reward/wrong_tail"], one.curves["accuracy"], strict=True)
    return [None if tail is None or right is None or right >= 1 else tail / (1 - right) for tail, right in pairs]


def mean_of_curve(values: Sequence[float | None]) -> float:
    """Mean of the known values of a curve. Raises `ValueError` where none is known."""
    known = [value for value in values if value is not None]
    if not known:
        raise ValueError("a curve without values")
    return sum(known) / len(known)


def area(one: Record) -> float:
    """Mean held-out pass rate over the run, by trapezoids between evaluations: how early it was learnt."""
    pieces = pairwise(one.held_out)
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pieces) / (one.held_out[-1][0] - one.held_out[0][0])
