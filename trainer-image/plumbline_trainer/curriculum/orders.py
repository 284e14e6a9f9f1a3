"""Orders of rows as pure functions: the data's own, one without end, and rows for prompts that are replaced."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from plumbline_trainer.curriculum.probe import Probe
from plumbline_trainer.curriculum.protocol import Prompts
from plumbline_trainer.data.order import DataOrder
from plumbline_trainer.data.seeds import derive_seed, permutation
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout


class InOrder:
    """No curriculum: the prompts of a rollout are those of its position in the data's order."""

    probe_samples = 0

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts

    def probed(self, probe: Probe) -> None:
        """It asks for no probe."""

    def choose(self, number: int, count: int, attempt: int = 0, exclude: Collection[int] = ()) -> list[int]:
        """The rows that `DataOrder` gives step `number`; the last rollout of an epoch may have fewer."""
        if attempt:
            return replacements(range(self._prompts.count), count, (self._prompts.seed, number, attempt), exclude)
        order = DataOrder(self._prompts.count, count, self._prompts.seed, self._prompts.shuffle)
        return order.rows_of(number)

    def observe(self, number: int, rows: Sequence[int], rollout: JudgedRollout, advantages: Tensor) -> None:
        """The order follows from the seed alone."""

    def metrics(self) -> dict[str, Metric]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is none."""


def endless(rows: Sequence[int], start: int, count: int, seed: int, shuffle: bool) -> list[int]:
    """`count` rows from position `start` of an order without end: `rows` again and again, by epoch in a new order.

    Unlike an epoch of `DataOrder` it has no short end, so that few rows fill any rollout. Positions of two epochs in
    one rollout may name a row twice.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        epoch, index = divmod(start + len(chosen), len(rows))
        order = permutation(len(rows), derive_seed(seed, "order", epoch)).tolist() if shuffle else range(len(rows))
        chosen += [rows[place] for place in order[index : index + count - len(chosen)]]
    return chosen


def replacements(
    rows: Sequence[int], count: int, seed: tuple[int, int, int], exclude: Collection[int] = ()
) -> list[int]:
    """Up to `count` distinct rows that are not in `exclude`, in an order that `seed` (seed, rollout, attempt) gives."""
    excluded = set(exclude)
    order = permutation(len(rows), derive_seed(*seed[:1], "replacement", *seed[1:])).tolist()
    return [rows[place] for place in order if rows[place] not in excluded][:count]
