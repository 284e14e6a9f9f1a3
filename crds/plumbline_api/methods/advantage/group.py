"""Baselines out of the rewards of a prompt's samples, and none at all."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.advantage.family import Advantage


class GroupRelative(Advantage, key="groupRelative"):
    """Reward minus the mean of its group, divided by a scale (Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2; without scale: Liu et al. 2025, arXiv:2503.20783)."""

    needs_group = True
    keeps_scale = ("normalize", "none")

    normalize: Literal["std", "batchStd", "none"] = Field(
        "std",
        description="std divides by the group's standard deviation, batchStd by that of all rewards of the rollout, none leaves the centred reward.",
    )
    epsilon: float = Field(1e-4, gt=0, le=1, description="Added to the standard deviation.")


class LeaveOneOut(Advantage, key="leaveOneOut"):
    """Reward minus the mean of the other samples of its group (RLOO; Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740, eq. 8)."""

    needs_group = True


class NoBaseline(Advantage, key="none"):
    """The reward itself, without a baseline."""


class LengthWeightedBaseline(Advantage, key="opo"):
    """Reward minus the mean reward of its group weighted by length, the baseline of least variance where every token's score has the same size (OPO; Hao et al. 2025, arXiv:2505.23585)."""

    needs_group = True


class QuantileBaseline(Advantage, key="quantile"):
    """Reward minus a quantile of its group, divided by the standard deviation: of hard prompts only successes count, of easy ones only failures (QAE; Wu et al. 2025, arXiv:2509.22611)."""

    needs_group = True
    keeps_scale = ("normalize", "none")

    quantile: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="K: the baseline is the least reward that a share K of the group does not exceed; with rewards 0 and 1 a prompt is hard while at most 1 - K of its samples succeed.",
    )
    normalize: Literal["std", "none"] = Field(
        "std", description="std divides by the group's standard deviation, none leaves the difference."
    )
    epsilon: float = Field(1e-4, gt=0, le=1, description="Added to the standard deviation.")


class GreedyBaseline(Advantage, key="remax"):
    """Reward minus the reward of the prompt's greedy completion (ReMax; Li et al. 2023, arXiv:2310.10505). One more completion a prompt, and no group is needed. The greedy completion's reward is that of the verifiers, without shaping and penalties: with these the baseline is off-centre, which costs variance and no bias."""

    needs_greedy = True
