"""Objectives and advantage estimators of RLVRJob."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.rules import Rule, field


class PolicyObjective(Family):
    """The policy-gradient objective of an RLVR job. A member with a `kl_coefficient` uses a reference model above 0."""

    strictly_on_policy: ClassVar[bool] = False
    """Whether each batch of completions may be used for one update only."""


class ClippedRatioObjective(PolicyObjective):
    """Parameters that objectives with a clipped importance ratio share; not a method itself."""

    rules: ClassVar = (
        Rule(
            field("clipLow") <= field("clipHigh"),
            "clipLow must not be above clipHigh: the upper bound of the ratio is never the tighter one",
            path="clipLow",
        ),
    )

    clip_low: float = Field(
        0.2, gt=0, lt=1, description="The importance ratio is clipped below at 1 - clipLow (PPO's epsilon)."
    )
    clip_high: float = Field(
        0.2,
        gt=0,
        le=10,
        description="The importance ratio is clipped above at 1 + clipHigh; larger than clipLow is DAPO's clip-higher.",
    )
    kl_coefficient: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Weight of the KL penalty to the reference model (k3 estimator); 0 loads no reference.",
    )


class Grpo(ClippedRatioObjective, key="grpo"):
    """Group relative policy optimization: clipped token ratios, averaged per sequence and then over sequences (Shao et al. 2024, arXiv:2402.03300, eq. 3)."""


class DrGrpo(ClippedRatioObjective, key="drGrpo"):
    """GRPO done right: token losses summed and divided by a constant, so that long wrong answers are not favoured (Liu et al. 2025, arXiv:2503.20783, sec. 3)."""

    normalization_tokens: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="The constant that each sequence's sum is divided by; default: training.maxCompletionTokens.",
    )


class Reinforce(PolicyObjective, key="reinforce"):
    """REINFORCE: advantage-weighted sequence log-likelihood, strictly on-policy (Williams 1992; in this form Ahmadian et al. 2024, arXiv:2402.14740, eq. 6)."""

    strictly_on_policy = True

    kl_coefficient: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Weight of the KL penalty to the reference model (k3 estimator); 0 loads no reference.",
    )


class Advantage(Family):
    """How rewards become advantages."""

    needs_group: ClassVar[bool] = False
    """Whether the estimator compares samples of one prompt, so that a group of one has no signal."""


class GroupRelative(Advantage, key="groupRelative"):
    """Reward minus the mean of its group, divided by a scale (Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2; without scale: Liu et al. 2025, arXiv:2503.20783)."""

    needs_group = True

    normalize: Literal["std", "none"] = Field(
        "std", description="std divides by the group's standard deviation, none leaves the centred reward."
    )
    epsilon: float = Field(1e-4, gt=0, le=1, description="Added to the standard deviation.")


class LeaveOneOut(Advantage, key="leaveOneOut"):
    """Reward minus the mean of the other samples of its group (RLOO; Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740, eq. 8)."""

    needs_group = True


class NoBaseline(Advantage, key="none"):
    """The reward itself, without a baseline."""


class PolicyObjectiveChoice(Choice, family=PolicyObjective):
    """The policy-gradient objective: exactly one method with its parameters."""


class AdvantageChoice(Choice, family=Advantage):
    """How rewards become advantages: exactly one estimator."""
