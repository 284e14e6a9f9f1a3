"""Objectives on pairs of steps whose scores are the steps' advantages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


class AdvantageDpo(PreferenceObjective, key="advantageDpo"):
    """Per-step DPO weighted by advantages: DPO on two steps after the same prefix, in which a pair counts by how far the steps' advantages lie apart, and which so becomes advantage-weighted reinforcement learning (Setlur et al. 2024, arXiv:2406.14532, sec. 6)."""

    needs_scores = True
    needs_prefix = True

    beta: float = Field(
        0.1, gt=0, le=100, description="Inverse temperature: how strongly the policy is held to the reference."
    )
    form: Literal["weighted", "softLabels"] = Field(
        "weighted",
        description="How the gap of the advantages enters: weighted multiplies the pair's loss by gap / gapScale; softLabels says that the chosen step is the better one with probability sigmoid(gap / gapScale), so that the log-ratios come to differ by gap / (gapScale beta) and no further.",
    )
    gap_scale: float = Field(
        1.0, gt=0, le=1e6, description="The gap of a pair that counts as one pair of DPO (weighted); unit of the gaps."
    )
