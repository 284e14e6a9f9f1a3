"""Objectives on pairs that add the likelihood of the chosen completion, which DPO alone may let fall."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.preference.direct import LogRatioObjective


class Rpo(LogRatioObjective, key="rpo"):
    """Regularised preference optimization: DPO plus the chosen completion's negative log-likelihood, which acts as an adversary to an over-optimised reward (Liu et al. 2024, arXiv:2405.16436)."""

    eta: float = Field(
        0.005,
        ge=0,
        le=1e6,
        description="Weight of the likelihood term relative to beta (it is weighted by eta x beta).",
    )


class IterativeRpo(LogRatioObjective, key="iterativeRpo"):
    """Iterative reasoning preference optimization: DPO plus the chosen completion's negative log-likelihood per token, for pairs of right and wrong solutions (Pang et al. 2024, arXiv:2404.19733, eq. 1).

    The method's rounds are chained jobs: each draws solutions from the model of the one before, pairs right with wrong
    ones, and takes that model as `model` and `reference`.
    """

    alpha: float = Field(1.0, ge=0, le=1e6, description="Weight of the negative log-likelihood per token.")
