"""Objectives on demonstrations."""

from __future__ import annotations

from plumbline_api.methods.preference.supervised import Sft
from plumbline_trainer.objectives.preference.inputs import Demonstrations, Losses
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Sft)
def sft(parameters: Sft, rows: Demonstrations) -> Losses:
    """Negative log-likelihood of each completion token: -log pi(y_t | x, y_<t).

    Returns losses `[B, T]`, of which only those at completion tokens count; the caller takes the mean over all tokens
    of the step (`aggregation.token_mean`).
    """
    tokens = rows.completion.by_token
    if tokens is None:
        raise ValueError("supervised fine-tuning needs the log-probability of every token")
    return -tokens.policy, {"logprobs/token": Metric.mean_of(tokens.policy, tokens.mask)}
