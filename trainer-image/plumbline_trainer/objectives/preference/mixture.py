"""Weighted sums of objectives on the same pairs."""

from __future__ import annotations

from plumbline_api.methods.preference.choice import Mixture
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_trainer.objectives.preference.inputs import Demonstrations, Losses, Pairs
from plumbline_trainer.objectives.registry import implementation_of, implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Mixture)
def mixture(parameters: Mixture, pairs: Pairs) -> Losses:
    """Sum over objectives of weight x loss of the row (Wang et al. 2024, arXiv:2411.10442, eq. 1).

    Returns losses `[B]`. An objective on demonstrations, such as sft, learns from the chosen completions; its loss of
    a row is the mean over the completion's tokens, like that paper's generation loss, so that long completions do not
    outweigh the other objectives. Metrics are the first objective's, and each objective's loss as `loss/<key>`.
    """
    total = pairs.chosen.logprob.new_zeros(pairs.chosen.logprob.shape)
    metrics: dict[str, Metric] = {}
    for term in reversed(parameters.terms):
        objective = term.objective.value
        losses, measured = _row_losses(objective, pairs)
        total = total + term.weight * losses
        metrics = metrics | measured | {f"loss/{objective.member_key}": Metric.mean_of(losses)}
    return total, metrics


def _row_losses(objective: PreferenceObjective, pairs: Pairs) -> Losses:
    if objective.data_shape == "pairs":
        losses: Losses = implementation_of(objective)(objective, pairs)
        return losses
    by_token, metrics = implementation_of(objective)(objective, Demonstrations(pairs.chosen))
    tokens = pairs.chosen.by_token
    if tokens is None:
        raise ValueError("an objective on demonstrations needs the log-probability of every token")
    return by_token.masked_fill(~tokens.mask, 0).sum(dim=1) / pairs.chosen.tokens, metrics
