"""An epoch of several sources with weights: a pure function of (seed, epoch).

The rows of all sources stand one after the other: source i has the numbers from the sum of the sizes before it. An
epoch has as many rows as all sources together. Source i gets a quota of them in proportion to its weight, rounded by
the largest remainder, so that quotas add up to the epoch exactly.

Which rows fill a quota: the source is an endless stream of passes over its rows, each pass in an order of its own, and
epoch e takes the rows e * quota to (e + 1) * quota of the stream. Over a run all rows of a source are therefore used
equally often, give or take one, whatever the weight, and no row comes again before all others of its source came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from plumbline_trainer.data.seeds import derive_seed, permutation


@dataclass(frozen=True)
class Part:
    """The rows of one source."""

    name: str
    rows: int
    weight: float


def quotas(parts: Sequence[Part]) -> list[int]:
    """Rows of one epoch by source: shares of all rows by weight, rounded by the largest remainder.

    Of equal remainders the first source counts. Raises `ValueError` where a source would get no row at all.
    """
    total, weights = sum(part.rows for part in parts), sum(part.weight for part in parts)
    exact = [total * part.weight / weights for part in parts]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    for part, count in zip(parts, counts, strict=True):
        if not count:
            raise ValueError(f"{part.name} gets no row of an epoch of {total}: its weight is too small")
    return counts


@lru_cache(maxsize=4)
def epoch_rows(parts: tuple[Part, ...], seed: int, epoch: int, shuffle: bool) -> torch.Tensor:
    """[sum of sizes] int64: the row numbers of an epoch in their order.

    Without `shuffle` every pass keeps its file's order, and the sources are interleaved evenly: the k-th of a source's
    q rows stands at the fraction (k + 1/2) / q of the epoch. Do not change the result in place: it is kept.
    """
    numbers, places, first = [], [], 0
    for part, quota in zip(parts, quotas(parts), strict=True):
        numbers.append(first + _stream(part, epoch * quota, quota, seed, shuffle))
        places.append((torch.arange(quota, dtype=torch.float64) + 0.5) / quota)
        first += part.rows
    rows = torch.cat(numbers)
    if shuffle:
        return rows[permutation(len(rows), derive_seed(seed, "order", epoch))]
    return rows[torch.cat(places).argsort(stable=True)]


def _stream(part: Part, start: int, count: int, seed: int, shuffle: bool) -> torch.Tensor:
    """[count] int64: rows of the source's stream of passes from `start` on, numbered from 0."""
    first, last = start // part.rows, (start + count - 1) // part.rows
    passes = [
        permutation(part.rows, derive_seed(seed, "mixture", part.name, number)) if shuffle else torch.arange(part.rows)
        for number in range(first, last + 1)
    ]
    offset = start - first * part.rows
    return torch.cat(passes)[offset : offset + count]
