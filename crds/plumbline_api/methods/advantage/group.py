"""Baselines out of the rewards of a prompt's samples, and none at all."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.advantage.family import Advantage


class GroupRelative(Advantage, key="groupRelative"):
    """Reward minus the mean of its group, divided by a scale (Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2; without scale: Liu et al. 2025, arXiv:2503.20783)."""

    needs_group = True

    normalize: Literal["std", "none"] = Field(
        "std", description="std divides by the group's standard deviation, none leaves the centred reward."
    )
    epsilon: float = Field(1e-4, gt=0, le=1, description="Added to the standard deviation.")


class LeaveOneOut(Advantage, key="leaveOneOut"):
    """Reward minus the mean of the other samples of its group (RLOO; Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740, eq. 8)."""

    needs_group = True


class NoBaseline(Advantage, key="none"):
    """The reward itself, without a baseline."""
