"""Group-relative REINFORCE on completions of any older policy: regularized updates, or a shaped choice of data."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.policy.family import CENTRED, PolicyObjective
from plumbline_api.rules import Rule, field


class Rec(PolicyObjective, key="rec"):
    """REINFORCE with clipping: advantage-weighted log-likelihood of the tokens whose ratio is inside a range, by default without importance weights (REC; Yao et al. 2025, arXiv:2509.24203)."""

    aggregation = "tokenMean"
    advantage = CENTRED

    rules: ClassVar = (
        Rule(
            ((field("outerLow") >= field("clipLow")) & (field("outerHigh") >= field("clipHigh"))).when(
                field("clip").equals("ring")
            ),
            "outerLow and outerHigh must not be below clipLow and clipHigh: the ring lies around the inner range",
            path="outerLow",
        ),
    )

    clip: Literal["none", "oneSide", "twoSide", "ring"] = Field(
        "oneSide",
        description="Which tokens have a gradient: none keeps all, oneSide drops those that have moved beyond the range in the direction of their advantage, twoSide all outside the range, ring as twoSide but keeps those that have moved far against their advantage.",
    )
    importance_sampling: bool = Field(False, description="Whether tokens are weighted by their importance ratio.")
    clip_low: float = Field(0.2, gt=0, le=1, description="The range of the ratio begins at 1 - clipLow.")
    clip_high: float = Field(0.2, gt=0, le=100, description="The range of the ratio ends at 1 + clipHigh.")
    outer_low: float = Field(
        0.6, gt=0, le=1, description="With ring: positive advantages are used again below 1 - outerLow."
    )
    outer_high: float = Field(
        2.0, gt=0, le=1000, description="With ring: negative advantages are used again above 1 + outerHigh."
    )


class Opmd(PolicyObjective, key="opmd"):
    """Online policy mirror descent: REINFORCE with a squared log-ratio to the policy before the rollout's updates (Kimi k1.5, arXiv:2501.12599, eq. 3; as regularized REINFORCE Yao et al. 2025, arXiv:2509.24203)."""

    advantage = CENTRED
    regularizes_divergence = True
    uses_zero_advantages = True

    tau: float = Field(1.0, gt=0, le=1000, description="Half of it weights the squared log-ratio.")
    level: Literal["sequence", "token"] = Field(
        "sequence", description="Whether the squared log-ratio is that of the whole completion or of each token."
    )


class AsymRe(PolicyObjective, key="asymRe"):
    """Asymmetric REINFORCE: a baseline below the mean reward, so that good completions weigh more than bad ones, which is safe off-policy (Arnal et al. 2025, arXiv:2506.20520)."""

    aggregation = "sequenceSum"
    advantage = CENTRED
    uses_zero_advantages = True

    baseline_shift: float = Field(
        -0.1,
        ge=-10,
        le=0,
        description="Added to the baseline, and so subtracted from every advantage; in units of the reward with the default advantage, in standard deviations with one that divides by them.",
    )


class RedDrop(PolicyObjective, key="redDrop"):
    """REINFORCE that leaves out excess bad completions: of each group at most so many with a negative advantage as it has others times a factor, drawn at random (RED-Drop; Yao et al. 2025, arXiv:2509.24203)."""

    aggregation = "tokenMean"
    advantage = CENTRED

    negatives_per_positive: float = Field(
        1.0, gt=0, le=1000, description="Most completions with a negative advantage for each with a positive one."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the draw.")


class RedWeight(PolicyObjective, key="redWeight"):
    """REINFORCE whose completions weigh exp(advantage / temperature) (RED-Weight; Yao et al. 2025, arXiv:2509.24203)."""

    aggregation = "tokenMean"
    advantage = CENTRED

    temperature: float = Field(1.0, gt=0, le=1000, description="A low one makes good completions weigh more.")
