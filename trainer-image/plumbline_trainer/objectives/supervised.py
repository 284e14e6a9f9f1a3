"""Supervised fine-tuning on log-probabilities."""

from __future__ import annotations

import torch

from plumbline_api.methods.preference import Sft
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Sft)
def sft(parameters: Sft, logprobs: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, dict[str, Metric]]:
    """Negative log-likelihood of each completion token: -log pi(y_t | x, y_<t).

    `logprobs` and `mask` are `[B, T]`; returns losses `[B, T]`, of which only those under `mask` count. The caller
    takes the mean over all tokens of the step (`aggregation.token_mean`).
    """
    return -logprobs, {"logprobs/token": Metric.mean_of(logprobs, mask)}
