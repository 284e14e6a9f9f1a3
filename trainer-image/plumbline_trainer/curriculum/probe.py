"""How well the start model does on every prompt: counts of judged completions, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plumbline_trainer.rollout.judged import JudgedRollout


@dataclass
class Probe:
    """What was seen of each of R prompts; completions that could not be judged are left out."""

    judged: Tensor
    """[R] int64: completions with a reward."""

    correct: Tensor
    """[R] int64: how many of them are correct."""

    rewards: Tensor
    """[R] float64: mean reward."""

    squares: Tensor
    """[R] float64: summed squares of the rewards' distances from their mean."""

    @classmethod
    def empty(cls, rows: int) -> Probe:
        """Nothing seen yet."""
        counts = torch.zeros(rows, dtype=torch.long)
        return cls(counts, counts.clone(), torch.zeros(rows, dtype=torch.float64), torch.zeros(rows).double())

    def add(self, rollout: JudgedRollout) -> None:
        """Adds completions of all ranks, whose groups are rows of the training set.

        A prompt's mean and squares are joined with what was there before as in Chan et al. 1979, so that no large
        sums cancel.
        """
        rows, valid = rollout.groups, rollout.valid
        size = torch.zeros_like(self.judged).index_add_(0, rows, valid.long())
        seen = size > 0
        total = torch.zeros_like(self.rewards).index_add_(0, rows, torch.where(valid, rollout.rewards, 0.0).double())
        mean = total / size.clamp(min=1)
        distance = torch.where(valid, rollout.rewards.double() - mean[rows], 0.0)
        squares = torch.zeros_like(self.squares).index_add_(0, rows, distance.square())
        joint = (self.judged + size).clamp(min=1)
        shift = mean - self.rewards
        self.squares += squares + torch.where(seen, shift.square() * self.judged * size / joint, 0.0)
        self.rewards += torch.where(seen, shift * size / joint, 0.0)
        self.judged += size
        self.correct += torch.zeros_like(self.correct).index_add_(0, rows, (valid & rollout.correct).long())

    @property
    def pass_rates(self) -> Tensor:
        """[R] float64; NaN where nothing could be judged."""
        return self.correct.double() / self.judged

    @property
    def deviations(self) -> Tensor:
        """[R] float64: sample standard deviation of the rewards; NaN for fewer than two."""
        return torch.where(self.judged > 1, (self.squares / (self.judged - 1)).sqrt(), torch.nan)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; every number comes back exactly."""
        return {
            "judged": self.judged.tolist(),
            "correct": self.correct.tolist(),
            "rewards": self.rewards.tolist(),
            "squares": self.squares.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Probe:
        """What `state_dict` gave."""
        return cls(
            torch.tensor(state["judged"], dtype=torch.long),
            torch.tensor(state["correct"], dtype=torch.long),
            torch.tensor(state["rewards"], dtype=torch.float64),
            torch.tensor(state["squares"], dtype=torch.float64),
        )
