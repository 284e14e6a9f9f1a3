"""What keeps the policy near the reference."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.base import Choice, Family


class KlPenalty(Family):
    """A penalty on the divergence of the policy from the reference."""


class KlInLoss(KlPenalty, key="loss"):
    """A term of each token's loss, differentiated (GRPO; Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4)."""

    coefficient: float = Field(0.001, gt=0, le=10, description="Weight of the penalty.")
    estimator: Literal["k3"] = Field(
        "k3",
        description='The estimate from a sampled token, d = log pi_ref - log pi: k3 is exp(d) - d - 1 (Schulman 2020, "Approximating KL divergence").',
    )


class KlChoice(Choice, family=KlPenalty):
    """How the policy is kept near the reference: exactly one way."""
