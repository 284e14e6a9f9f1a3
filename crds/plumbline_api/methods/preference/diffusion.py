"""Objectives for masked diffusion language models."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


class Vrpo(PreferenceObjective, key="vrpo"):
    """Variance-reduced preference optimization of masked diffusion language models: DPO on estimated likelihood bounds, with the same masks for policy and reference (Zhu et al. 2025, arXiv:2505.19223)."""

    masked_likelihood: ClassVar[bool] = True

    beta: float = Field(
        0.2, gt=0, le=100, description="Inverse temperature: how strongly the policy is held to the reference."
    )
    samples: int = Field(
        8, ge=1, le=1024, description="Noise levels drawn for each completion in each step: numbers of masked tokens."
    )
    masks_per_step: int = Field(
        1,
        ge=1,
        le=64,
        description="Masks drawn for each noise level; with the same number of forward passes, more samples vary less.",
    )
    shared_noise: bool = Field(
        True,
        description="Estimate policy and reference from the same masks, so that their common error cancels; false draws them independently.",
    )
