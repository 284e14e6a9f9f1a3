"""Feasible learning: one multiplier for every training row, moved by how far the row's loss is from a bound.

With multipliers lambda_i, one a training row, a step minimises the mean of lambda_i loss_i over its rows, and then
moves the multipliers of those rows by their losses:

    weights = row_weights(aggregation, multipliers[rows])            # [B], before the step's first micro-batch
    loss = sequence_mean(weights * losses, sequences=rows_of_step)
    multipliers[rows] = updated_multipliers(aggregation, multipliers[rows], losses)

The multipliers of all rows are state of the run and belong into its checkpoints. A row's multiplier depends on that
row's losses alone, so no split into micro-batches or ranks changes it.

Feasible learning (Ramirez et al. 2025, arXiv:2501.14912) asks for any model with loss_i <= epsilon for every row. Its
Lagrangian sum_i lambda_i (loss_i - epsilon) is minimised over the model and maximised over lambda_i >= 0: gradient
ascent gives lambda_i <- max(0, lambda_i + eta (loss_i - epsilon)). The resilient form prices slack xi_i >= 0 (Hounie et
al. 2023, arXiv:2306.02426):

    minimise (alpha/2) sum_i xi_i^2  subject to  loss_i <= epsilon + xi_i
    L = sum_i [ (alpha/2) xi_i^2 + lambda_i (loss_i - epsilon - xi_i) ]

For lambda_i >= 0 the smallest L over xi_i is at xi_i = lambda_i / alpha. Put back, it leaves
L = sum_i [ lambda_i (loss_i - epsilon) - lambda_i^2 / (2 alpha) ], whose derivative by lambda_i is
loss_i - epsilon - lambda_i / alpha: the ascent of above, with the multiplier decaying by its own slack. At rest
lambda_i = alpha max(0, loss_i - epsilon), so the model minimises (alpha/2) sum_i max(0, loss_i - epsilon)^2; as alpha
grows, that becomes the feasibility problem itself.

Multipliers begin at 1, which makes the first pass over the data the ordinary mean: from 0, a row would not train
before its second visit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from plumbline_api.methods.aggregation import Feasible, LossAggregation, MeanLoss, ResilientFeasible
from plumbline_trainer.registry import Registry

MULTIPLIER_SLOPES: Registry[Callable[..., torch.Tensor]] = Registry(LossAggregation)
"""Functions `(parameters, multipliers, losses) -> change of the multipliers [B]`, before they are cut at 0."""


def initial_multipliers(rows: int) -> torch.Tensor:
    """[rows] float32: the multipliers of a training set's rows at the start of a run."""
    return torch.ones(rows)


def row_weights(parameters: LossAggregation, multipliers_of_rows: torch.Tensor) -> torch.Tensor:
    """[B], without gradient: the factors of the losses of rows with these multipliers [B]; 1 for the plain mean."""
    if not parameters.keeps_multipliers:
        return torch.ones_like(multipliers_of_rows)
    return multipliers_of_rows.detach()


def updated_multipliers(
    parameters: LossAggregation, multipliers_of_rows: torch.Tensor, losses: torch.Tensor
) -> torch.Tensor:
    """[B]: the multipliers of rows after a step in which they had these unweighted `losses` [B]; never negative."""
    multipliers = multipliers_of_rows.detach()
    change = MULTIPLIER_SLOPES.of(parameters)(parameters, multipliers, losses.detach().to(multipliers))
    return (multipliers + change).clamp(min=0)


@MULTIPLIER_SLOPES.implements(MeanLoss)
def _mean(parameters: MeanLoss, multipliers: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(multipliers)


@MULTIPLIER_SLOPES.implements(Feasible)
def _feasible(parameters: Feasible, multipliers: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    return parameters.dual_learning_rate * (losses - parameters.epsilon)


@MULTIPLIER_SLOPES.implements(ResilientFeasible)
def _resilient(parameters: ResilientFeasible, multipliers: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    return parameters.dual_learning_rate * (losses - parameters.epsilon - multipliers / parameters.alpha)
