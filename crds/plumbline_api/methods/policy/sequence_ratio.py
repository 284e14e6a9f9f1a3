"""Objectives with one importance ratio a completion."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.policy.clipped import ClippedRatioObjective
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.rules import Rule, field


class SequenceRatioObjective(ClippedRatioObjective):
    """Clipped ratios of whole completions, whose bounds are a thousandth of those of tokens; not a method itself."""

    clip_low: float = Field(3e-4, gt=0, lt=1, description="The completion's ratio is clipped below at 1 - clipLow.")
    clip_high: float = Field(4e-4, gt=0, le=10, description="The completion's ratio is clipped above at 1 + clipHigh.")


class Gspo(SequenceRatioObjective, key="gspo"):
    """Group sequence policy optimization: the clipped ratio is the geometric mean of a completion's token ratios (Zheng et al. 2025, arXiv:2507.18071, sec. 4.1; bounds of sec. 5.1)."""


class GspoToken(SequenceRatioObjective, key="gspoToken"):
    """GSPO for advantages that differ along a completion: the value of the completion's ratio, the gradient of each token's own (Zheng et al. 2025, arXiv:2507.18071, sec. 4.3). Equal to gspo where a completion has one advantage."""


class Luspo(SequenceRatioObjective, key="luspo"):
    """Length-unbiased GSPO: a completion's loss times its length, so that short completions are not favoured (arXiv:2602.05261)."""

    aggregation = "sequenceSum"


class Gmpo(PolicyObjective, key="gmpo"):
    """Geometric-mean policy optimization: the geometric mean of a completion's token ratios, each clipped before (Zhao et al. 2025, arXiv:2507.20673)."""

    rules: ClassVar = (
        Rule(
            field("clipLow") <= field("clipHigh"),
            "clipLow must not be above clipHigh: the upper bound of the ratio is never the tighter one",
            path="clipLow",
        ),
    )

    clip_low: float = Field(0.4, gt=0, le=10, description="A token's log-ratio is clipped below at -clipLow.")
    clip_high: float = Field(0.4, gt=0, le=10, description="A token's log-ratio is clipped above at clipHigh.")


class Topr(PolicyObjective, key="topr"):
    """Tapered off-policy REINFORCE: likelihood for good completions, importance weights truncated at 1 for bad ones (Le Roux et al. 2025, arXiv:2503.14286)."""

    aggregation = "sequenceSum"


class Vespo(PolicyObjective, key="vespo"):
    """Soft weights of whole completions: phi(w) = exp(lambda) w^k exp(-lambda w), 1 at w = 1, in place of clipping (VESPO, arXiv:2602.10693)."""

    aggregation = "tokenMean"

    k_positive: float = Field(
        2.0, ge=0, le=100, description="k where the advantage is not negative: how fast small ratios lose weight."
    )
    lambda_positive: float = Field(
        3.0, gt=0, le=100, description="lambda where the advantage is not negative: how fast large ratios lose weight."
    )
    k_negative: float = Field(3.0, ge=0, le=100, description="k where the advantage is negative.")
    lambda_negative: float = Field(2.0, gt=0, le=100, description="lambda where the advantage is negative.")
