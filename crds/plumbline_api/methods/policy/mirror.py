"""Objectives of mirror learning: an importance ratio with a drift that is 0 at the policy before the updates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.policy.family import PolicyObjective


class Mdpo(PolicyObjective, key="mdpo"):
    """Mirror descent policy optimization: the unclipped ratio times the advantage, less KL(policy || policy before the rollout's updates) over a step size; several updates a rollout solve each mirror step (Tomar et al. 2020, arXiv:2005.09814)."""

    regularizes_divergence = True
    uses_zero_advantages = True

    step_size: float = Field(
        1.0, gt=0, le=1000, description="Step size t of mirror descent at the start; the divergence weighs 1/t."
    )
    anneal: Literal["linear", "constant"] = Field(
        "linear", description="linear lets the step size fall to 0 over the job, as the paper does."
    )


class Discovered(PolicyObjective, key="discovered"):
    """Discovered policy optimisation: the ratio times the advantage less a learnt drift function, a smooth relative of PPO's clip; not direct preference optimization (Lu et al. 2022, arXiv:2210.05639)."""

    positive_width: float = Field(
        2.0, gt=0, le=100, description="alpha: how far a ratio may rise freely where the advantage is positive."
    )
    negative_width: float = Field(
        0.6, gt=0, le=100, description="beta: how far a log-ratio may fall freely where the advantage is negative."
    )
