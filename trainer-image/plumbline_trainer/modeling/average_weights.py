"""The exponentially weighted average of a policy's weights, and what changes with the size of a batch.

The average after updates 1..k is sum_i decay^(k-i) theta_i / sum_i decay^(k-i), starting from the initial weights as
theta_0: a true weighted mean from the first update on, which Hilton et al. 2022 (arXiv:2110.00641, sec. 3.2) use as the
proximal policy of PPO-EWMA. Its centre of mass lies decay / (1 - decay) updates back.

A batch that is c times smaller makes c times as many updates of the same data. For Adam, whose update does not shrink
with the gradient's noise, the paper keeps the course of training with a learning rate divided by sqrt(c) and an average
whose centre of mass is c times as many updates back; by the same argument each of Adam's own decay rates b becomes
b^(1/c).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from plumbline_trainer.modeling.moving_reference import mix_parameters


class AverageWeights:
    """Keeps tensors at the exponentially weighted mean of the policy's, update by update.

    `average` and `policy` map the same names to tensors; `average` starts as a copy of the initial policy and is
    changed in place. State in a checkpoint: the tensors, and `total`.
    """

    def __init__(self, average: Mapping[str, torch.Tensor], decay: float, total: float = 1.0) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"the decay must be between 0 and 1, not {decay}")
        if total < 1:
            raise ValueError(f"the sum of the weights is at least 1, not {total}")
        self.average, self.decay = average, decay
        self.total = total
        """Sum of decay^(k-i) over the updates so far: what the newest weights are divided by."""

    def update(self, policy: Mapping[str, torch.Tensor]) -> None:
        """Takes the weights after an update. Raises `ValueError`, changing nothing, for other names or shapes."""
        total = self.decay * self.total + 1
        mix_parameters(self.average, policy, 1 / total)
        self.total = total


@dataclass(frozen=True)
class BatchScaling:
    """Settings for a batch that is `smaller` times smaller than the one they were found for; below 1 it is larger."""

    smaller: float

    def __post_init__(self) -> None:
        if self.smaller <= 0:
            raise ValueError(f"a batch cannot be {self.smaller} times smaller")

    def learning_rate(self, value: float) -> float:
        """Adam's learning rate: value / sqrt(smaller)."""
        return value / math.sqrt(self.smaller)

    def adam_decay(self, value: float) -> float:
        """Adam's decay rate of a moment: value^(1 / smaller), the same memory in samples."""
        return float(value ** (1 / self.smaller))

    def average_decay(self, value: float) -> float:
        """The decay of the average of weights, whose centre of mass moves back `smaller` times as far."""
        centre = centre_of_mass(value) * self.smaller
        return centre / (1 + centre)


def centre_of_mass(decay: float) -> float:
    """How many updates back the mean of the weights decay^j lies: decay / (1 - decay)."""
    return decay / (1 - decay)
