"""Estimators that compare a sample with others of its group: in pairs, or as the best of a few."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.rules import Rule, field, has


class PairwiseWinRate(Advantage, key="pairwiseWinRate"):
    """The share of its group that a sample beats takes the place of its reward and is standardised within the group, so that tiny differences of a scored reward are not blown up (Pref-GRPO; Wang et al. 2025, arXiv:2508.20751)."""

    needs_group = True
    keeps_scale = False

    comparison: Literal["hard", "soft"] = Field(
        "hard",
        description="hard counts wins and half of ties; soft counts the probability of a win, the logistic function of the difference over temperature.",
    )
    temperature: float = Field(1.0, gt=0, le=1000, description="Scale of differences with soft comparison.")
    tie_band: float = Field(
        0.0, ge=0, le=1000, description="Rewards that differ by no more than this tie, whichever the comparison."
    )
    normalize: Literal["std", "none"] = Field(
        "std", description="std divides by the standard deviation of the group's win rates, none leaves them centred."
    )
    epsilon: float = Field(1e-4, gt=0, le=1, description="Added to the standard deviation.")


class PassAtK(Advantage, key="passAtK"):
    """Advantages that raise the best of k samples instead of their mean: what a sample adds to the best of k (Tang et al. 2025, arXiv:2503.19595; Walder & Karkhanis 2025, arXiv:2505.15201), or the standardised reward of the sets that it is in (Chen et al. 2025, arXiv:2508.10751)."""

    rules: ClassVar = (
        Rule(
            has("k").differs(field("form").equals("best")),
            "k must be set unless form is best, which takes the whole group",
            path="k",
        ),
    )

    needs_group = True
    keeps_scale = ("form", "marginal")

    form: Literal["best", "marginal", "normalized"] = Field(
        "best",
        description="best: the best sample of the group alone, by how much it exceeds the second best over the standard deviation. marginal: k times the mean over sets of k of what the sample adds to the set's best, an unbiased gradient. normalized: mean reward of the sets of k that the sample is in, minus that of all sets, over its standard deviation.",
    )
    k: int | None = Field(
        None, ge=2, le=4096, description="Samples in a set; at most rollout.groupSize. For marginal and normalized."
    )
    epsilon: float = Field(1e-6, gt=0, le=1, description="Added to standard deviations.")
