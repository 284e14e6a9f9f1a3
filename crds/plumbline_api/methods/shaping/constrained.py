"""Several rewards of which some are to reach a threshold rather than to grow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.methods.shaping.family import ComponentName, Shaping


class Constraint(ApiModel):
    """What the mean of one component is to be."""

    component: ComponentName = Field(description="Component of spec.rewards; usually with weight 0 there.")
    threshold: float = Field(ge=-1000, le=1000, description="The value that its mean is held against.")
    kind: Literal["atLeast", "atMost", "equal"] = Field(
        "atLeast", description="Whether the mean must not be below, not be above, or be at the threshold."
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

    @property
    def component_names(self) -> tuple[str, ...]:
        return tuple(constraint.component for constraint in self.constraints)
