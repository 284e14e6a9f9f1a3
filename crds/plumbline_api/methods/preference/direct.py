"""Objectives on pairs whose rewards are log-ratios of policy to reference: DPO and its relatives."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.rules import Rule, field


class Dpo(PreferenceObjective, key="dpo"):
    """Direct preference optimization: logistic loss on the difference of policy-to-reference log-ratios (Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing: Mitchell 2023, conservative DPO)."""

    rules: ClassVar = (
        Rule(
            field("labelSmoothing") < 0.5,
            "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
            path="labelSmoothing",
        ),
    )

    beta: float = Field(
        0.1, gt=0, le=100, description="Inverse temperature: how strongly the policy is held to the reference."
    )
    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="Assumed probability that a preference label is flipped (conservative DPO)."
    )


class Ipo(PreferenceObjective, key="ipo"):
    """Identity preference optimization: squared distance of the log-ratio margin from 1/(2 tau) (Azar et al. 2023, arXiv:2310.12036, eq. 17)."""

    tau: float = Field(0.1, gt=0, le=100, description="Regularisation strength; the margin's target is 1/(2 tau).")
    length_normalized: bool = Field(
        True,
        description="Average log-probabilities over completion tokens before taking the margin, as reference implementations do; false sums them as in the paper.",
    )
