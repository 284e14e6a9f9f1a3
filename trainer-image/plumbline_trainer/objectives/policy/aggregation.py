"""How token losses become the loss of a step: the API's choices, by the sums of `objectives.aggregation`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from plumbline_api.methods.policy_aggregation import Constant, PolicyAggregation, SequenceMean, SequenceSum, TokenMean
from plumbline_trainer.objectives.aggregation import constant, sequence_mean_of_token_mean, token_mean
from plumbline_trainer.objectives.policy.inputs import StepCounts
from plumbline_trainer.registry import Registry

Aggregate = Callable[[Any, Tensor, Tensor, StepCounts], Tensor]
"""(parameters, losses [B, T], mask [B, T], step) -> share of the step's loss (scalar). Shares add up over a step."""

AGGREGATIONS: Registry[Aggregate] = Registry(PolicyAggregation)


@AGGREGATIONS.implements(SequenceMean)
def _sequence_mean(parameters: SequenceMean, losses: Tensor, mask: Tensor, step: StepCounts) -> Tensor:
    return sequence_mean_of_token_mean(losses, mask, sequences=step.sequences)


@AGGREGATIONS.implements(TokenMean)
def _token_mean(parameters: TokenMean, losses: Tensor, mask: Tensor, step: StepCounts) -> Tensor:
    return token_mean(losses, mask, tokens=step.tokens)


@AGGREGATIONS.implements(SequenceSum)
def _sequence_sum(parameters: SequenceSum, losses: Tensor, mask: Tensor, step: StepCounts) -> Tensor:
    return constant(losses, mask, sequences=step.sequences, tokens_each=1.0)


@AGGREGATIONS.implements(Constant)
def _constant(parameters: Constant, losses: Tensor, mask: Tensor, step: StepCounts) -> Tensor:
    each = float(parameters.tokens or step.max_completion_tokens)
    return constant(losses, mask, sequences=step.sequences, tokens_each=each)
