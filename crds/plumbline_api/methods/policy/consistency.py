"""Objectives that also learn from groups whose completions all end alike."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.policy.clipped import ClippedRatioObjective
from plumbline_api.methods.regular_expression import RegularExpression


class Copo(ClippedRatioObjective, key="copo"):
    """Consistency-aware policy optimization: a blend of GRPO's loss with one whose advantage compares the prompts of a rollout by their success rates; the less a prompt's answers disagree, the more of the second (Han et al. 2025, arXiv:2508.04138)."""

    uses_zero_advantages = True

    sharpness: float = Field(
        20.0,
        gt=0,
        le=1000,
        description="The share of GRPO's loss is sigmoid(sharpness x (H - entropyThreshold)), H being the entropy of the group's answers in bits.",
    )
    entropy_threshold: float = Field(
        0.5, ge=0, le=20, description="Entropy of a group's answers, in bits, at which both losses weigh the same."
    )
    discount_disagreement: bool = Field(
        False,
        description="Whether a prompt's success rate is reduced by the entropy of its answers before prompts are compared.",
    )
    answer: RegularExpression | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="Regular expression whose first group (or whole match) is a completion's answer; the last match counts. Unset: completions with the same reward have the same answer.",
    )
    epsilon: float = Field(1e-6, gt=0, le=1, description="Added to the standard deviation over prompts.")
