"""How the losses of rows become what is minimised."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.rules import Rule, field


class LossAggregation(Family):
    """What is asked of the losses of all training rows together."""

    keeps_multipliers: ClassVar[bool] = False
    """Whether every training row has a multiplier that training moves and checkpoints hold."""


class MeanLoss(LossAggregation, key="mean"):
    """The mean of all rows' losses is minimised (empirical risk minimisation)."""


class Feasible(LossAggregation, key="feasible"):
    """Feasible learning: every single row's loss is to fall below epsilon; a row's weight grows while its loss is above and falls to 0 while it is below (Ramirez et al. 2025, arXiv:2501.14912)."""

    keeps_multipliers = True

    epsilon: float = Field(
        ge=-1_000_000,
        le=1_000_000,
        description="Bound on each row's loss, in units of the objective's loss; for dpo a pair without any preference has 0.693.",
    )
    dual_learning_rate: float = Field(
        0.1, gt=0, le=1000, description="Step of a row's weight for each unit of loss above the bound."
    )


class ResilientFeasible(Feasible, key="resilientFeasible"):
    """Resilient feasible learning: as feasible, but each row may exceed the bound by a slack of smallest squared norm, so that impossible rows do not take over (Ramirez et al. 2025, arXiv:2501.14912; slack: Hounie et al. 2023, arXiv:2306.02426)."""

    rules: ClassVar = (
        Rule(
            field("dualLearningRate") <= field("alpha"),
            "dualLearningRate must not be above alpha: weights would jump over the value at which they settle",
            path="dualLearningRate",
        ),
    )

    alpha: float = Field(
        1.0,
        gt=0,
        le=1_000_000,
        description="Price of slack: the weight of a row that stays above the bound settles at alpha times its excess. Large values approach feasible.",
    )


class LossAggregationChoice(Choice, family=LossAggregation):
    """How the losses of rows become what is minimised: exactly one aggregation."""
