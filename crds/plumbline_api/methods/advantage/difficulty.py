"""Estimators in which the success rate of a prompt decides how much its samples weigh."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.advantage.family import Advantage


class MaximumLikelihood(Advantage, key="maxRl"):
    """Reward minus the mean of its group, divided by that mean: with rewards 0 and 1 the gradient of the likelihood of success instead of its probability, up to the order that the group allows (MaxRL; Tajwar et al. 2026, arXiv:2602.02710). Rewards must not be negative."""

    needs_group = True
    keeps_scale = False


class DifficultyWeighted(Advantage, key="difficultyWeighted"):
    """Reward relative to its group, times a factor that falls with the share of right samples in the group, so that hard prompts weigh more (Chen et al. 2025, arXiv:2505.13261)."""

    needs_group = True
    keeps_scale = ("normalize", "none")

    function: Literal["exponential", "linear"] = Field(
        "exponential",
        description="Factor of a group of which a share p is right: exponential is exp(strength (1/2 - p)), linear is 1 + strength (1/2 - p).",
    )
    strength: float = Field(
        1.0, ge=0, le=2, description="How much difficulty counts; 0 gives groupRelative, as does p = 1/2."
    )
    normalize: Literal["std", "none"] = Field(
        "std", description="std divides by the group's standard deviation, none leaves the centred reward."
    )
    epsilon: float = Field(1e-4, gt=0, le=1, description="Added to the standard deviation.")
