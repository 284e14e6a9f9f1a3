"""Objectives that also see completions drawn from the reference."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.rules import Rule, field


class Typo(PreferenceObjective, key="typo"):
    """TYPO: Bradley-Terry on the policy's own log-probabilities, without a reference ratio, plus the likelihood of samples of the reference, which holds the policy where the preferences say nothing (Hu et al. 2024, arXiv:2407.09072)."""

    needs_reference = False
    draws_samples = True

    rules: ClassVar = (
        Rule(
            field("labelSmoothing") < 0.5,
            "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
            path="labelSmoothing",
        ),
    )

    reference_weight: float = Field(
        0.1, ge=0, le=10000, description="Weight of the divergence from the reference to the policy (lambda)."
    )
    label_smoothing: float = Field(0.0, ge=0, le=0.5, description="Assumed probability that a preference is flipped.")
    samples_per_prompt: int = Field(
        1, ge=1, le=64, description="Completions drawn from the reference for each prompt, once, before training."
    )


class Ddo(PreferenceObjective, key="ddo"):
    """Direct discriminative optimization: a discriminator whose logit is the log-ratio of policy to reference tells demonstrations from samples of the reference; its optimum is the distribution of the demonstrations (Zheng et al. 2025, arXiv:2503.01103)."""

    data_shape = "completions"
    draws_samples = True

    beta: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Scale of the log-ratio in the discriminator. 1 has the demonstrations' distribution as optimum; smaller values overshoot it, and saturate later where log-ratios are large (0.02 in the paper for autoregressive image models).",
    )
    shift: float = Field(
        0.0,
        ge=-100,
        le=100,
        description="Added to the discriminator's logit. -log(sampleWeight) keeps the optimum when sampleWeight is not 1.",
    )
    sample_weight: float = Field(
        1.0, gt=0, le=1000, description="Weight of the samples' term (alpha); the paper searches 0.5 to 100."
    )
    samples_per_prompt: int = Field(
        1, ge=1, le=64, description="Completions drawn from the reference for each prompt, once, before training."
    )
