"""Corrections for verifiers that are wrong at known rates."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.methods.shaping.family import ComponentName, Shaping
from plumbline_api.rules import Rule, field


class Appeal(ApiModel):
    """A second opinion on completions that the verifier calls wrong."""

    component: ComponentName = Field(
        description="Component of spec.rewards, with weight 0 there, that judges again: at least 1 is right."
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Share of what was known before a rollout in what is known after it."
    )


class NoisyVerifier(Shaping):
    """What is known about a verifier's errors."""

    rules: ClassVar = (
        Rule(
            (field("falsePositiveRate") + field("falseNegativeRate")) <= 0.95,
            "falsePositiveRate and falseNegativeRate must sum to at most 0.95: a verifier that is wrong as often as right says nothing",
            path="falsePositiveRate",
        ),
    )

    false_positive_rate: float = Field(
        0.0, ge=0, le=0.95, description="Share of wrong completions that the verifier calls right."
    )
    false_negative_rate: float = Field(
        0.0,
        ge=0,
        le=0.95,
        description="Share of right completions that the verifier calls wrong; with appeal where its estimate begins.",
    )
    appeal: Appeal | None = Field(
        None, description="Estimates falseNegativeRate while the job runs; without it the rate stays as given."
    )

    @property
    def component_names(self) -> tuple[str, ...]:
        return () if self.appeal is None else (self.appeal.component,)


class BackwardCorrection(NoisyVerifier, key="backwardCorrection"):
    """Backward correction of verifier noise: (R - rho0) / (1 - rho0 - rho1) with the rates rho0 of false positives and rho1 of false negatives, whose expectation is the clean reward (Cai et al. 2025, arXiv:2510.00915)."""

    component: ComponentName | None = Field(
        None,
        description="Component of spec.rewards that is corrected and added, with weight 0 there. Default: the total so far is corrected, which must be 0 or 1.",
    )
    weight: float = Field(1.0, ge=0, le=1000, description="Factor of the corrected component.")

    @property
    def component_names(self) -> tuple[str, ...]:
        return super().component_names + (() if self.component is None else (self.component,))


class ForwardCorrection(NoisyVerifier, key="forwardCorrection"):
    """Forward correction of verifier noise: rewards of 1 and 0 become rho1 and rho1 - 1 with the rate rho1 of false negatives, so that right completions have no expected weight and wrong ones a negative one (Cai et al. 2025, arXiv:2510.00915)."""

    removed_by_baselines: ClassVar[bool] = True
