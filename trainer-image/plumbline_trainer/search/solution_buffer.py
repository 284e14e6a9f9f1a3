"""Different solutions of each problem, found by sampling and kept over rollouts (Ni et al. 2023, arXiv:2205.14318)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SolutionBuffer:
    """For each row of the training set its different solutions as token ids, oldest first, at most `capacity` a row.

    What tells solutions apart is a key that the caller gives: the text, or a program's normal form. Where a row is full
    a newer solution is not taken, so that what the first ones taught is not forgotten.
    """

    capacity: int
    solutions: dict[int, dict[str, list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"a row's capacity must be at least 1, not {self.capacity}")

    def add(self, row: int, key: str, tokens: Sequence[int]) -> bool:
        """Whether the solution was new and there was room for it."""
        kept = self.solutions.setdefault(row, {})
        if key in kept or len(kept) >= self.capacity:
            return False
        kept[key] = list(tokens)
        return True

    @property
    def size(self) -> int:
        """Solutions of all rows."""
        return sum(map(len, self.solutions.values()))

    def of(self, row: int) -> Mapping[str, list[int]]:
        """The row's solutions by their keys, oldest first."""
        return self.solutions.get(row, {})

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON types; later additions do not change it."""
        return {str(row): [[key, tokens] for key, tokens in kept.items()] for row, kept in self.solutions.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.solutions = {int(row): dict(kept) for row, kept in state.items()}
