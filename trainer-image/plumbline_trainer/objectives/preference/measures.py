"""Metrics that many preference objectives share."""

from __future__ import annotations

import torch

from plumbline_trainer.objectives.preference.inputs import Completions, Pairs, Scores
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


def list_metrics(scores: Scores) -> dict[str, Metric]:
    """`pair_metrics` of all pairs of one row's completions of which the data scores one higher than the other."""
    return pair_metrics(*ordered_pairs(scores.values, scores.labels, scores.present))


def ordered_pairs(
    values: torch.Tensor, labels: torch.Tensor | None, present: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[P]` twice: the values `[B, K]` of the better and of the worse completion, for all P pairs of completions of one
    row that `present` has and whose `labels` differ. Raises `ValueError` without labels."""
    if labels is None:
        raise ValueError("completions can only be compared by scores")
    better = (labels[:, :, None] > labels[:, None, :]) & present[:, :, None] & present[:, None, :]
    row, first, second = better.nonzero(as_tuple=True)
    return values[row, first], values[row, second]


def logprob_metrics(pairs: Pairs) -> dict[str, Metric]:
    """Mean log-probabilities of both sides, and `reference_metrics` where there is a reference."""
    return {
        "logprobs/chosen": Metric.mean_of(pairs.chosen.logprob),
        "logprobs/rejected": Metric.mean_of(pairs.rejected.logprob),
        **reference_metrics(pairs.chosen, pairs.rejected),
    }


def reference_metrics(*completions: Completions) -> dict[str, Metric]:
    """`kl`: mean over completions of h(y), in nats a sequence; empty without a reference.

    E[h(y)] is the divergence KL(pi || pi_ref) where y comes from the policy. These completions come from the data, so
    the mean says how far the policy moved on them and may be negative: the likelihood of both sides often falls.
    """
    parts = [Metric.mean_of(side.log_ratio) for side in completions if side.reference is not None]
    return {"kl": sum(parts[1:], parts[0])} if parts else {}


def won(margin: torch.Tensor) -> torch.Tensor:
    """1 where the margin is positive, 0 where it is negative, 1/2 where it is zero."""
    return (margin.detach().sign() + 1) / 2
