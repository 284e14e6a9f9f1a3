"""Objectives that compare distributions of log-ratios over a whole step, by optimal transport in one dimension."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.rules import Rule, field


class TransportObjective(PreferenceObjective):
    """Parameters that both forms share; not a method itself."""

    needs_whole_step = True
    smallest_batch = 2  # a single pair has nothing to be sorted against: the loss would silently be DPO

    rules: ClassVar = (
        Rule(
            field("labelSmoothing") < 0.5,
            "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
            path="labelSmoothing",
        ),
    )

    beta: float = Field(0.1, gt=0, le=100, description="Scale of the difference of two quantiles.")
    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="Assumed probability that a preference label is flipped."
    )


class Aot(TransportObjective, key="aot"):
    """Alignment via optimal transport, paired: over the step, the sorted margins of the policy must dominate the sorted margins of the reference, quantile by quantile (Melnyk et al. 2024, arXiv:2406.05882)."""


class AotUnpaired(TransportObjective, key="aotUnpaired"):
    """Alignment via optimal transport, unpaired: over the step, the sorted log-ratios of chosen completions must dominate those of rejected ones, whatever prompts they belong to (Melnyk et al. 2024, arXiv:2406.05882)."""
