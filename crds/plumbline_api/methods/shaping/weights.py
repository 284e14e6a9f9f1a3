"""Weights of the reward's components that change while the policy learns."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.methods.shaping.family import ComponentName, Shaping


class Objective(ApiModel):
    """One of several components that are learned together."""

    component: ComponentName = Field(description="Component of spec.rewards.")
    reference: float = Field(
        0.0, ge=-1000, le=1000, description="Its coordinate of the reference point: means at or below it count nothing."
    )


class HypervolumeWeighting(Shaping, key="hypervolumeWeighting"):
    """Hypervolume-guided weights: the rewards of a rollout are scaled by how much its means add to the hypervolume of those before, from 1/2 without gain to 2 (Lu et al. 2025, arXiv:2509.11452). It needs an advantage that keeps the scale of rewards."""

    changes_scale: ClassVar[bool] = True

    objectives: list[Objective] = Field(
        min_length=2,
        max_length=4,
        description="The components whose means are compared.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["component"]},
    )
    least: float = Field(0.5, ge=0, le=100, description="Factor of a rollout that adds nothing.")
    gain: float = Field(1.5, ge=0, le=100, description="What is added to it times tanh of the added hypervolume.")

    @property
    def component_names(self) -> tuple[str, ...]:
        return tuple(objective.component for objective in self.objectives)


class GradientWeighting(Shaping, key="gradientWeighting"):
    """Gradient-based weights: the reward is the weighted mean of components, and weights move by mirror descent towards the component whose gradient helps all of them most (Lu et al. 2025, arXiv:2509.11452)."""

    needs_component_gradients: ClassVar[bool] = True

    components: list[ComponentName] = Field(
        min_length=2, max_length=8, description="Components of spec.rewards; weight 0 there."
    )
    learning_rate: float = Field(0.1, gt=0, le=1000, description="Step size of mirror descent.")
    least: float = Field(
        0.0, ge=0, le=0.1, description="No weight falls below; above 0 a component can always come back."
    )

    @property
    def component_names(self) -> tuple[str, ...]:
        return tuple(self.components)
