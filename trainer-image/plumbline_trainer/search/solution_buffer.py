"""Different solutions of each problem, found by sampling and kept over rollouts (Ni et al. 2023, arXiv:2205.14318)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SolutionBuffer:
    """For each row of the training set its different solutions, oldest first, at most `capacity` a row.

    What tells solutions apart is a key that the caller gives: the text, or a program's normal form. Where a row is full
    a newer solution is not taken, so that what the first ones taught is not forgotten.
    """

    capacity: int
    solutions: dict[int, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"a row's capacity must be at least 1, not {self.capacity}")

    def add(self, row: int, solution: str, key: str | None = None) -> bool:
        """Whether the solution was new and there was room for it; without a key its text tells it apart."""
        kept = self.solutions.setdefault(row, {})
        name = solution if key is None else key
        if name in kept or len(kept) >= self.capacity:
            return False
        kept[name] = solution
        return True

    def of(self, row: int) -> list[str]:
        """The row's solutions, oldest first."""
        return list(self.solutions.get(row, {}).values())

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        return {str(row): [[key, text] for key, text in kept.items()] for row, kept in self.solutions.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.solutions = {int(row): dict(kept) for row, kept in state.items()}
