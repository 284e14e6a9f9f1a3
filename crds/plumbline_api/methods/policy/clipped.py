"""Objectives with a clipped importance ratio of single tokens."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.policy.family import CENTRED, PolicyObjective
from plumbline_api.rules import Rule, field, has


class ClippedRatioObjective(PolicyObjective):
    """Parameters that objectives with a clipped importance ratio share; not a method itself."""

    rules: ClassVar[tuple[Rule, ...]] = (
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


class DualClippedRatioObjective(ClippedRatioObjective):
    """Clipped importance ratios that may have a bound for negative advantages too; not a method itself."""

    rules: ClassVar = (
        *ClippedRatioObjective.rules,
        Rule(
            (field("dualClip") >= field("clipHigh") + 1.0).unless(~has("dualClip")),
            "dualClip must be at least 1 + clipHigh: below it would undo the upper bound of the ratio",
            path="dualClip",
        ),
    )

    dual_clip: float | None = Field(
        None,
        gt=1,
        le=100,
        description="Where the advantage is negative, the ratio above which a token has no gradient (c of dual-clip PPO, Ye et al. 2020, arXiv:1912.09729, usually 3; delta of two-sided clipping, arXiv:2505.07291, usually 4); unset: none.",
    )


class Grpo(DualClippedRatioObjective, key="grpo"):
    """Group relative policy optimization: clipped token ratios, averaged per sequence and then over sequences (Shao et al. 2024, arXiv:2402.03300, eq. 3)."""


class DrGrpo(DualClippedRatioObjective, key="drGrpo"):
    """GRPO done right: token losses summed and divided by a constant, so that long wrong answers are not favoured, and by default advantages without a standard deviation, so that easy and hard prompts weigh the same (Liu et al. 2025, arXiv:2503.20783, sec. 3)."""

    aggregation = "constant"
    advantage = CENTRED


class Ppo(DualClippedRatioObjective, key="ppo"):
    """Proximal policy optimization: clipped token ratios, averaged over all tokens (Schulman et al. 2017, arXiv:1707.06347, eq. 7). Its usual advantage is `gae`, with a critic."""

    aggregation = "tokenMean"


class Dapo(DualClippedRatioObjective, key="dapo"):
    """Decoupled clip: an upper bound above the lower one, averaged over all tokens (Yu et al. 2025, arXiv:2503.14476, eq. 8 and 10). Its dynamic sampling and its penalty on overlong answers are choices of their own."""

    aggregation = "tokenMean"

    clip_high: float = Field(
        0.28, gt=0, le=10, description="The importance ratio is clipped above at 1 + clipHigh (clip-higher)."
    )
