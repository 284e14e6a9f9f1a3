"""Objectives on single completions that are desirable or not."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


class Kto(PreferenceObjective, key="kto"):
    """Kahneman-Tversky optimization on unpaired desirable and undesirable completions (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8)."""

    data_shape = "unpaired"
    smallest_batch = 2  # the KL term is estimated from completions paired with other rows' prompts

    beta: float = Field(
        0.1, gt=0, le=100, description="Risk aversion: scale of the log-ratio inside the value function."
    )
    desirable_weight: float = Field(1.0, gt=0, le=1000, description="Weight of desirable rows (lambda_D).")
    undesirable_weight: float = Field(1.0, gt=0, le=1000, description="Weight of undesirable rows (lambda_U).")
