"""The moving average of the policy's weights as the policy that an update stays near (PPO-EWMA)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plumbline_trainer.modeling.average_weights import AverageWeights

_PREFIX = "average/"
"""What the names of a checkpoint's tensors begin with."""


class ProximalAverage:
    """Follows the trained parameters of a policy, and takes their place for a pass."""

    def __init__(self, policy: nn.Module, decay: float) -> None:
        self._parameters = {name: one for name, one in policy.named_parameters() if one.requires_grad}
        first = {name: one.detach().float().clone() for name, one in self._parameters.items()}
        self._weights = AverageWeights(first, decay)

    def update(self) -> None:
        """Takes the weights after an update of the policy."""
        self._weights.update({name: one.detach() for name, one in self._parameters.items()})

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the policy's parameters are the average; the present ones are back after."""
        present = {name: one.data for name, one in self._parameters.items()}
        try:
            for name, one in self._parameters.items():
                one.data = self._weights.average[name].to(one.dtype)
            yield
        finally:
            for name, one in self._parameters.items():
                one.data = present[name]

    def tensors(self) -> dict[str, Tensor]:
        """The average for a checkpoint, by name."""
        return {f"{_PREFIX}{name}": value for name, value in self._weights.average.items()}

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state besides tensors."""
        return {"total": self._weights.total}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restores `tensors` and `state_dict`. Raises `KeyError` where one is missing."""
        for name, value in self._weights.average.items():
            value.copy_(tensors[f"{_PREFIX}{name}"])
        self._weights.total = state["total"]
