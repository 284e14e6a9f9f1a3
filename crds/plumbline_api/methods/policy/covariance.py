"""Objectives that keep entropy up by restraining the tokens that lower it most."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.policy.clipped import ClippedRatioObjective
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.rules import Rule, field

_SHARE = "Share of the rollout's tokens that are restrained; at least one is."


class ClipCov(ClippedRatioObjective, key="clipCov"):
    """PPO without the gradient of some tokens whose log-probability and advantage covary, drawn at random (Clip-Cov; Cui et al. 2025, arXiv:2505.22617)."""

    aggregation = "tokenMean"

    rules: ClassVar = (
        *ClippedRatioObjective.rules,
        Rule(
            field("covarianceLow") < field("covarianceHigh"),
            "covarianceLow must be below covarianceHigh: tokens between them are drawn from",
            path="covarianceLow",
        ),
    )

    share: float = Field(2e-4, gt=0, le=1, description=_SHARE)
    covariance_low: float = Field(1.0, ge=-1e6, le=1e6, description="Tokens are drawn from those above.")
    covariance_high: float = Field(5.0, ge=-1e6, le=1e6, description="Tokens are drawn from those below.")


class KlCov(PolicyObjective, key="klCov"):
    """Unclipped ratios, with a penalty on the move of those tokens whose log-probability and advantage covary most (KL-Cov; Cui et al. 2025, arXiv:2505.22617)."""

    aggregation = "tokenMean"

    share: float = Field(2e-4, gt=0, le=1, description=_SHARE)
    coefficient: float = Field(1.0, gt=0, le=100, description="Weight of the penalty.")
