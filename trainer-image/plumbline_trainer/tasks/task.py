"""What a step is: the protocol between the training loop and the two kinds of job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from plumbline_trainer.reporting.metrics import Metrics


class Batch(Protocol):
    """One optimizer step's work of this rank, already split into micro-batches."""

    micro_batches: Sequence[Any]
    """What `Task.loss` takes, in order."""

    tokens: int
    """Tokens processed by this rank in this step, for the throughput."""

    metrics: Metrics
    """Metrics that are known before the update, such as rewards."""

    phase_seconds: dict[str, float]
    """Duration of the phases before the update, such as generate and verify."""


class Task(Protocol):
    """A kind of job: where batches come from, what their loss is, how the model is evaluated.

    A task draws everything random from (seed, step, row), so `prepare(step)` gives the same batch whether or not the
    run was interrupted before. State that does not follow from the step alone goes through `state_dict`.
    """

    model: torch.nn.Module
    """The module whose trainable parameters the loop updates."""

    max_steps: int
    """Optimizer steps in all."""

    score_name: str
    """Name of the evaluation metric that stands for the run in one number."""

    def prepare(self, step: int) -> Batch:
        """The batch of optimizer step `step` (from 0), for this rank."""

    def loss(self, micro_batch: Any) -> tuple[torch.Tensor, Metrics]:
        """The micro-batch's share of the step's loss: shares of all micro-batches and ranks add up to the loss."""

    def evaluate(self) -> dict[str, float]:
        """Metrics of the held-out rows, the same on every rank; empty without held-out rows."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state besides parameters."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
