"""Losses that are added to a preference objective and teach the model something beside it."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.base import Choice, Family


class AuxiliaryLoss(Family):
    """A loss that is added to that of the objective, row by row."""

    weight: float = Field(0.1, ge=0, le=100, description="Factor of the added loss; 0 leaves the objective as it is.")


class PreferenceDegree(AuxiliaryLoss, key="preferenceDegree"):
    """Preference-degree awareness: a small head, dropped from the result, tells how much was removed from degraded copies of the completions (Li et al. 2024, arXiv:2409.17791)."""

    levels: int = Field(
        4, ge=2, le=64, description="Degrees of removal that are told apart, the untouched completion among them."
    )


class AuxiliaryLossChoice(Choice, family=AuxiliaryLoss):
    """What is learned beside the objective: exactly one loss."""
