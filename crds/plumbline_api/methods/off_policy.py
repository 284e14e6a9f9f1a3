"""Corrections for completions that another policy, or another implementation of it, has sampled."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.rules import Rule, field

Level = Literal["token", "sequence", "geometricMean"]

_LEVEL = "Whose ratio: each token's own, or that of the whole completion as the product or the geometric mean of them."


class OffPolicyCorrection(Family):
    """Weights of token losses by the ratio of the trainer's probability before the updates to the sampler's."""


class Truncated(OffPolicyCorrection, key="truncated"):
    """Importance weights cut off at a bound (truncated importance sampling; Ionides 2008; against a sampler that rounds otherwise: Yao et al. 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL Training)."""

    level: Level = Field("token", description=_LEVEL)
    bound: float = Field(2.0, ge=1, le=1e6, description="Greatest weight.")


class Masked(OffPolicyCorrection, key="masked"):
    """Importance weights inside a range, and 0 outside it (IcePop; Ling team 2025, arXiv:2510.18855)."""

    rules: ClassVar = (Rule(field("low") < field("high"), "low must be below high: weights lie between", path="low"),)

    level: Level = Field("token", description=_LEVEL)
    low: float = Field(0.5, ge=0, le=1, description="Below this ratio the weight is 0.")
    high: float = Field(5.0, ge=1, le=1e6, description="Above this ratio the weight is 0.")


class StaleMasked(OffPolicyCorrection, key="staleMasked"):
    """Leaves out completions with a negative advantage from which the policy has moved away (off-policy sequence masking; DeepSeek-V3.2 2025, arXiv:2512.02556, eq. 9)."""

    threshold: float = Field(
        0.1, gt=0, le=100, description="Greatest mean of log pi_sampler - log pi over a completion's tokens, in nats."
    )


class OffPolicyCorrectionChoice(Choice, family=OffPolicyCorrection):
    """How off-policy completions are corrected for: exactly one way."""
