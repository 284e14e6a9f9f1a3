"""Objectives that bound the weight of a token's gradient without taking the gradient away."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.rules import Rule, field


class Cispo(PolicyObjective, key="cispo"):
    """Clipped importance weights on the log-likelihood, so that every token keeps a gradient (MiniMax-M1 2025, arXiv:2506.13585)."""

    aggregation = "tokenMean"

    rules: ClassVar = (
        Rule(
            field("lower") < field("upper"),
            "lower must be below upper: the importance weight lies between them",
            path="lower",
        ),
    )

    lower: float = Field(
        0.0, ge=0, le=1, description="Least importance weight (1 - epsilon_low); 0, as in the paper, is no bound."
    )
    upper: float = Field(5.0, ge=1, le=1000, description="Greatest importance weight (1 + epsilon_high).")


class Sapo(PolicyObjective, key="sapo"):
    """Soft adaptive policy optimization: a logistic gate around ratio 1 in place of clipping, narrower for negative advantages (arXiv:2511.20347)."""

    tau_positive: float = Field(
        1.0, gt=0, le=100, description="Temperature of the gate where the advantage is positive."
    )
    tau_negative: float = Field(
        1.05, gt=0, le=100, description="Temperature of the gate elsewhere; larger closes it sooner."
    )
