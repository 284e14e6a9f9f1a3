"""What keeps the policy near the reference."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel, Choice, Family
from plumbline_api.rules import Rule, field

Estimator = Literal["k1", "k2", "k3"]

_ESTIMATORS = (
    "d = log pi_ref - log pi: k1 is -d, k2 d^2/2, k3 exp(d) - d - 1 (Schulman 2020, Approximating KL divergence)"
)


class KlPenalty(Family):
    """A penalty on the divergence of the policy from the reference."""


class KlInLoss(KlPenalty, key="loss"):
    """A term of each token's loss, differentiated (GRPO; Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4)."""

    rules: ClassVar = (
        Rule(
            field("importanceWeighted").equals(True).when(field("estimator").equals("k1")),
            "estimator k1 must be importanceWeighted in the loss: without weights the mean of its gradient is 0",
            path="importanceWeighted",
        ),
    )

    coefficient: float = Field(0.001, gt=0, le=10, description="Weight of the penalty.")
    estimator: Estimator = Field(
        "k3",
        description=f"The estimate from a sampled token, {_ESTIMATORS}. As a loss on-policy, k2 has the gradient of KL(pi || pi_ref) and k3 that of KL(pi_ref || pi).",
    )
    importance_weighted: bool = Field(
        False,
        description="Whether the estimate is weighted by the token's importance ratio, which makes its gradient that of KL(pi || pi_ref) for every estimator and also after several updates (DeepSeek-V3.2 2025, arXiv:2512.02556).",
    )


class AdaptiveKl(ApiModel):
    """A coefficient that follows a target (Ziegler et al. 2019, arXiv:1909.08593, sec. 2.2)."""

    target: float = Field(6.0, gt=0, le=1e6, description="Divergence of a whole completion to hold, in nats.")
    horizon: float = Field(
        10_000,
        gt=0,
        le=1e12,
        description="Completions over which the coefficient would grow by a fifth at most, e-fold in five of them.",
    )


class KlInReward(KlPenalty, key="reward"):
    """A reward of every token, -coefficient times the estimate, that enters returns and advantages and is not differentiated (Ziegler et al. 2019, arXiv:1909.08593, eq. 2)."""

    coefficient: float = Field(0.001, gt=0, le=10, description="Weight of the penalty; with adaptive, the first.")
    estimator: Estimator = Field(
        "k1",
        description=f"The estimate from a sampled token, {_ESTIMATORS}. Only k1 gives the gradient of KL(pi || pi_ref).",
    )
    adaptive: AdaptiveKl | None = Field(
        None, description="Changes the coefficient after every rollout so that the divergence meets a target."
    )


class KlChoice(Choice, family=KlPenalty):
    """How the policy is kept near the reference: exactly one way."""
