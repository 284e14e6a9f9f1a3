"""Policy gradients of an expected reward less a divergence, derived as a whole."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.rules import Rule, field, has


class RegularizedGradient(PolicyObjective):
    """Parameters of the regularized policy gradients; not a method itself."""

    regularizes_divergence = True
    uses_zero_advantages = True

    rules: ClassVar = (
        Rule(
            field("estimator").equals("reinforce").when(has("clipLow") | has("clipHigh")),
            "clipLow and clipHigh need estimator reinforce: a clipped ratio that is differentiated has no gradient",
            path="estimator",
        ),
    )

    divergence: Literal["reverse", "forward"] = Field(
        "forward", description="reverse is KL(policy || reference), forward KL(reference || policy)."
    )
    normalized: bool = Field(
        False,
        description="false adds the difference of the total masses to the divergence, which has the same expected gradient and less variance near the reference.",
    )
    estimator: Literal["differentiable", "reinforce"] = Field(
        "reinforce",
        description="differentiable differentiates the importance-weighted objective, reinforce weights log-likelihoods by a constant; both have the same gradient without clipping.",
    )
    coefficient: float = Field(1e-4, gt=0, le=10, description="Weight of the divergence.")
    level: Literal["token", "sequence"] = Field(
        "token",
        description="Whether ratio and divergence are of single tokens, or of whole completions, which is exact and has more variance.",
    )
    clip_low: float | None = Field(
        None, gt=0, lt=1, description="Weights of the estimator reinforce use a ratio of at least 1 - clipLow."
    )
    clip_high: float | None = Field(
        None, gt=0, le=10, description="Weights of the estimator reinforce use a ratio of at most 1 + clipHigh."
    )


class Rpg(RegularizedGradient, key="rpg"):
    """Regularized policy gradient toward the policy that sampled: the exact gradient of expected advantage less a forward or reverse KL divergence, normalized or not, differentiable or in REINFORCE form (Zhang et al. 2025, arXiv:2505.17508)."""


class RpgReference(RegularizedGradient, key="rpgReference"):
    """Regularized policy gradient toward the frozen reference instead of the policy that sampled, with the divergence weighted for samples of the latter (after Zhang et al. 2025, arXiv:2505.17508)."""

    needs_reference = True
