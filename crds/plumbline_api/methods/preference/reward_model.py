"""Objectives of reward models: scalar scores instead of log-probabilities."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


class RewardModel(PreferenceObjective, key="rewardModel"):
    """Bradley-Terry reward model: a scalar head trained so that chosen scores above rejected (Ouyang et al. 2022, arXiv:2203.02155, eq. 1; centring: Eisenstein et al. 2023, arXiv:2312.09244)."""

    needs_reference = False
    trains_scalar_head = True

    centering_coefficient: float = Field(
        0.0, ge=0, le=10, description="Weight of the squared sum of both rewards, which keeps the mean reward at zero."
    )
