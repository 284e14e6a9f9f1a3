"""Objectives on pairs whose completions carry scores: how much better the chosen one is enters the loss."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.preference.direct import LogRatioObjective
from plumbline_api.rules import Rule, field


class Odpo(LogRatioObjective, key="odpo"):
    """DPO with an offset: the margin of a pair must exceed an offset that grows with the gap of its scores (Amini et al. 2024, arXiv:2402.10571)."""

    needs_scores = True

    alpha: float = Field(1.0, ge=0, le=1000, description="Scale of the offset, in units of the reward; 0 is DPO.")
    offset: Literal["log", "identity"] = Field(
        "log",
        description="Function of the score gap (chosen minus rejected). With log, a pair with a gap of 0 or less has no loss; with identity, its offset is 0 or negative.",
    )


class ScoreDpo(LogRatioObjective, key="scoreDpo"):
    """Score-DPO: DPO whose implicit rewards are weighted by the scores of the completions (Wang et al. 2025, arXiv:2502.04306)."""

    needs_scores = True

    rules: ClassVar = (
        Rule(
            field("lowestScore") < field("highestScore"),
            "lowestScore must be below highestScore: they are mapped to 0 and 1",
            path="lowestScore",
        ),
    )

    lowest_score: float = Field(
        0.0, ge=-1e6, le=1e6, description="Score that is mapped to 0; lower ones are mapped to 0 as well."
    )
    highest_score: float = Field(
        1.0, ge=-1e6, le=1e6, description="Score that is mapped to 1; higher ones are mapped to 1 as well."
    )
