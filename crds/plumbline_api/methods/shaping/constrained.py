"""Several rewards of which some are to reach a threshold rather than to grow."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.methods.shaping.family import ComponentName, Shaping
from plumbline_api.rules import Rule, field


class Constraint(ApiModel):
    """What the mean of one component is to be."""

    component: ComponentName = Field(description="Component of spec.rewards; usually with weight 0 there.")
    threshold: float = Field(ge=-1000, le=1000, description="The value that its mean is held against.")
    kind: Literal["atLeast", "atMost", "equal"] = Field(
        "atLeast", description="Whether the mean must not be below, not be above, or be at the threshold."
    )


class ThresholdSearch(ApiModel):
    """Looks for the thresholds during the run, by the method of Nelder and Mead: each candidate holds for some rollouts, and the mean of a component says how good it is."""

    rules: ClassVar = (
        Rule(
            field("lowest") + field("step") < field("highest"),
            "lowest and highest must be more than step apart: there would be nothing to search",
            path="highest",
        ),
    )

    component: ComponentName = Field(
        description="Component of spec.rewards that is really wanted, usually with weight 0 there; the thresholds with its largest mean win."
    )
    lowest: float = Field(0.0, ge=-1000, le=1000, description="Least threshold that is tried.")
    highest: float = Field(1.0, ge=-1000, le=1000, description="Greatest threshold that is tried.")
    every: int = Field(
        20,
        ge=2,
        le=100_000,
        description="Rollouts for which thresholds hold; the later half of them is measured, once the policy has followed.",
    )
    step: float = Field(
        0.1, gt=0, le=1000, description="How far the first candidates are from the given thresholds, one at a time."
    )


class Constrained(Shaping, key="constrained"):
    """Constrained reward: the total counts by what the constraints leave to it, each constrained component by a Lagrange multiplier that grows while its mean breaks the constraint and is kept within -1 and 1 (mu-PPO for inequalities, xi-PPO for equalities; Moskovitz et al. 2023, arXiv:2310.04373)."""

    constraints: list[Constraint] = Field(
        min_length=1,
        max_length=8,
        description="What is to hold.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["component"]},
    )
    learning_rate: float = Field(0.1, gt=0, le=1000, description="Step size of the multipliers.")
    momentum: float = Field(
        0.0, ge=0, lt=1, description="How much of the multipliers' last change is repeated in the next."
    )

    threshold_search: ThresholdSearch | None = Field(
        None, description="Move the thresholds, which are where it begins. Default: they stay."
    )

    @property
    def component_names(self) -> tuple[str, ...]:
        searched = () if self.threshold_search is None else (self.threshold_search.component,)
        return (*(constraint.component for constraint in self.constraints), *searched)
