"""Objectives that go by the verdict on a completion, right or wrong, and not by its advantage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.policy.clipped import ClippedRatioObjective
from plumbline_api.methods.policy.family import PolicyObjective


class Raft(PolicyObjective, key="raft"):
    """Reward-ranked fine-tuning: the likelihood of the completions worth imitating, and nothing else (Dong et al. 2023, arXiv:2304.06767)."""

    uses_zero_advantages = True

    keep: Literal["correct", "best"] = Field(
        "correct",
        description="correct keeps every right completion; best keeps that of the highest reward of each prompt, the first of several (best-of-n).",
    )

    @property
    def weighs_by_samples(self) -> bool:
        """The best of many counts once, as the best of few does."""
        return self.keep == "correct"


class RaftPlusPlus(ClippedRatioObjective, key="raftPlusPlus"):
    """RAFT on right completions with a clipped importance ratio, for several updates on a rollout (RAFT++; Xiong et al. 2025, arXiv:2504.11343)."""

    uses_zero_advantages = True


class WReinforce(ClippedRatioObjective, key="wReinforce"):
    """Weighted REINFORCE: wrong completions count 1, right ones positiveWeight, which at 0 is negative sample reinforcement (NSR; Zhu et al. 2025, arXiv:2506.01347)."""

    aggregation = "tokenMean"
    uses_zero_advantages = True

    positive_weight: float = Field(0.1, ge=0, le=1, description="Weight of right completions (lambda).")
