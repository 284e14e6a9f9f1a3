"""Which function implements a pairing of the API, and its application to all rows of a data set."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plumbline_api.methods.pairing import Pairing
from plumbline_trainer.data.rows import PairRow
from plumbline_trainer.data.seeds import derive_seed
from plumbline_trainer.registry import Registry

Pairs = Callable[[Any, Any, random.Random], list[PairRow]]
"""(the method's parameters, one row of the shape it reads, random numbers of that row) -> its pairs, maybe none."""

PAIRINGS: Registry[Pairs] = Registry(Pairing)


@dataclass(frozen=True)
class Paired:
    """The pairs of a data set."""

    rows: list[PairRow]
    """In the order of the rows that they come from."""

    without_pair: int
    """Rows that gave none."""


def make_pairs(parameters: Pairing, rows: Sequence[Any], seed: int) -> Paired:
    """The pairs of every row: a pure function of its arguments, and for each row of the row, its index and the seed."""
    pairs_of = PAIRINGS.of(parameters)
    pairs: list[PairRow] = []
    without = 0
    for index, row in enumerate(rows):
        made = pairs_of(parameters, row, random.Random(derive_seed(seed, "pairing", index)))
        pairs += made
        without += not made
    return Paired(pairs, without)
