"""The loss of a micro-batch of completions: the objective, what corrects and regularizes it, and the aggregation.

    loss = aggregate( objective x off-policy weight x selection x weight of the prompt  +  KL penalty
                      -  coefficient x entropy )

over the tokens of all completions of a step. For demonstrations the likelihood stands in place of the objective. Every
factor and term is one of single tokens or completions, or follows from the whole rollout or the steps before, so the
shares of micro-batches add up however they are split.
"""

from __future__ import annotations

from torch import Tensor

from plumbline_api.methods.kl import KlPenalty
from plumbline_api.methods.off_policy import OffPolicyCorrection
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.policy_aggregation import PolicyAggregation, PolicyAggregationChoice
from plumbline_trainer.objectives.policy.aggregation import AGGREGATIONS
from plumbline_trainer.objectives.policy.demonstrations import DEMONSTRATED, beside_demonstrations
from plumbline_trainer.objectives.policy.entropy import entropy_term
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts, TokenLosses
from plumbline_trainer.objectives.policy.kl import KL_PENALTIES
from plumbline_trainer.objectives.policy.off_policy import CORRECTIONS
from plumbline_trainer.objectives.policy.preparation import PROMPT_WEIGHT
from plumbline_trainer.objectives.policy.token_selection import SELECTED
from plumbline_trainer.objectives.registry import implementation_of
from plumbline_trainer.reporting.metrics import Metric


def policy_loss(
    objective: PolicyObjective,
    tokens: PolicyTokens,
    step: StepCounts,
    *,
    kl: KlPenalty | None = None,
    aggregation: PolicyAggregation | None = None,
    correction: OffPolicyCorrection | None = None,
    entropy_coefficient: float | None = None,
) -> tuple[Tensor, dict[str, Metric]]:
    """The micro-batch's share of the step's loss (scalar, differentiable), and its metrics.

    Shares of all micro-batches and ranks add up to the loss of the step. `aggregation` defaults to the objective's.
    Of `tokens.prepared`: tokens that are not selected have no loss of the objective, losses of the objective are
    multiplied by the weight of the prompt, penalties act on all alike, and what is demonstrated has the loss of its
    likelihood, whatever the objective. With an `entropy_coefficient`, 0 included, the policy's entropy is measured.
    Raises `ValueError` if `tokens` lack what a part needs.
    """

    def of_samples(samples: PolicyTokens) -> TokenLosses:
        losses, metrics = implementation_of(objective)(objective, samples)
        if correction is None:
            return losses, metrics
        weights, about_weights = CORRECTIONS.of(correction)(correction, samples)
        return losses * weights, {**metrics, **about_weights}

    with_demonstrations = DEMONSTRATED in tokens.prepared
    losses, metrics = beside_demonstrations(of_samples, tokens) if with_demonstrations else of_samples(tokens)
    if SELECTED in tokens.prepared:
        losses = losses * tokens.prepared_as(SELECTED)
    if PROMPT_WEIGHT in tokens.prepared:
        losses = losses * tokens.prepared_as(PROMPT_WEIGHT)
    if kl is not None:
        penalty, about_kl = KL_PENALTIES.of(kl)(kl, tokens)
        losses, metrics = losses + penalty, {**metrics, **about_kl}
    if entropy_coefficient is not None:
        term, about_entropy = entropy_term(entropy_coefficient, tokens)
        losses, metrics = losses + term, {**metrics, **about_entropy}
    how = aggregation or default_aggregation(objective)
    return AGGREGATIONS.of(how)(how, losses, tokens.mask, step), metrics


def default_aggregation(objective: PolicyObjective) -> PolicyAggregation:
    """The aggregation of the objective's paper."""
    chosen: PolicyAggregation = PolicyAggregationChoice.of(objective.aggregation).value
    return chosen
