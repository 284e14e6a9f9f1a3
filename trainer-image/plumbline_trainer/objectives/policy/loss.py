"""The loss of a micro-batch of completions: the objective, the KL penalty, and how they are aggregated."""

from __future__ import annotations

from torch import Tensor

from plumbline_api.methods.kl import KlPenalty
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.policy_aggregation import PolicyAggregation, PolicyAggregationChoice
from plumbline_trainer.objectives.policy.aggregation import AGGREGATIONS
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.kl import KL_PENALTIES
from plumbline_trainer.objectives.registry import implementation_of
from plumbline_trainer.reporting.metrics import Metric


def policy_loss(
    objective: PolicyObjective,
    tokens: PolicyTokens,
    step: StepCounts,
    *,
    kl: KlPenalty | None = None,
    aggregation: PolicyAggregation | None = None,
) -> tuple[Tensor, dict[str, Metric]]:
    """The micro-batch's share of the step's loss (scalar, differentiable), and its metrics.

    Shares of all micro-batches and ranks add up to the loss of the step. `aggregation` defaults to the objective's.
    """
    losses, metrics = implementation_of(objective)(objective, tokens)
    if kl is not None:
        penalty, about_kl = KL_PENALTIES.of(kl)(kl, tokens)
        losses, metrics = losses + penalty, {**metrics, **about_kl}
    how = aggregation or default_aggregation(objective)
    return AGGREGATIONS.of(how)(how, losses, tokens.mask, step), metrics


def default_aggregation(objective: PolicyObjective) -> PolicyAggregation:
    """The aggregation of the objective's paper."""
    chosen: PolicyAggregation = PolicyAggregationChoice.of(objective.aggregation).value
    return chosen
