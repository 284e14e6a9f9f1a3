"""Metrics that many preference objectives share."""

from __future__ import annotations

import torch

from plumbline_trainer.objectives.preference.inputs import Pairs
from plumbline_trainer.reporting.metrics import Metric


def pair_metrics(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, Metric]:
    """Metrics of rewards `[B]` of both sides; a tie counts as half a win, as a coin would decide it."""
    margin = (chosen - rejected).detach()
    return {
        "rewards/chosen": Metric.mean_of(chosen),
        "rewards/rejected": Metric.mean_of(rejected),
        "rewards/margin": Metric.mean_of(margin),
        "rewards/accuracy": Metric.mean_of(won(margin)),
    }


def logprob_metrics(pairs: Pairs) -> dict[str, Metric]:
    """Mean log-probabilities of both sides."""
    return {
        "logprobs/chosen": Metric.mean_of(pairs.chosen.logprob),
        "logprobs/rejected": Metric.mean_of(pairs.rejected.logprob),
    }


def won(margin: torch.Tensor) -> torch.Tensor:
    """1 where the margin is positive, 0 where it is negative, 1/2 where it is zero."""
    return (margin.detach().sign() + 1) / 2
