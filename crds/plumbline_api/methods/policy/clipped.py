"""Objectives with a clipped importance ratio."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.rules import Rule, field


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


class Grpo(ClippedRatioObjective, key="grpo"):
    """Group relative policy optimization: clipped token ratios, averaged per sequence and then over sequences (Shao et al. 2024, arXiv:2402.03300, eq. 3)."""


class DrGrpo(ClippedRatioObjective, key="drGrpo"):
    """GRPO done right: token losses summed and divided by a constant, so that long wrong answers are not favoured (Liu et al. 2025, arXiv:2503.20783, sec. 3)."""

    aggregation = "constant"
