"""Objectives on pairs that need no reference model."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


class Simpo(PreferenceObjective, key="simpo"):
    """Simple preference optimization: length-normalised log-probabilities with a target margin and no reference model (Meng et al. 2024, arXiv:2405.14734, eq. 6)."""

    needs_reference = False

    beta: float = Field(2.0, gt=0, le=100, description="Scale of the length-normalised log-probability reward.")
    gamma: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Target margin between the rewards of chosen and rejected (absolute, in the units of the scaled reward).",
    )
