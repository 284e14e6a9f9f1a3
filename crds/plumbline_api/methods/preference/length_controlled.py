"""Objectives on pairs that see how long completions are, so that a policy does not learn that longer is better."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.preference.direct import LogRatioObjective


class Rdpo(LogRatioObjective, key="rdpo"):
    """Length-regularised DPO: DPO for a policy that pays for every token of its answer (Park et al. 2024, arXiv:2403.19159)."""

    alpha: float = Field(0.01, ge=0, le=10, description="Price of a completion token in units of the reward; 0 is DPO.")


class LdDpo(LogRatioObjective, key="ldDpo"):
    """Length-desensitised DPO: tokens beyond the length that both completions have count less (Liu et al. 2024, arXiv:2409.06411)."""

    needs_tokens = True

    alpha: float = Field(
        0.5, ge=0, le=1, description="Weight of the tokens beyond the shorter completion's length; 1 is DPO."
    )


class Erpo(LogRatioObjective, key="erpo"):
    """Length-controlled preference term of ex-ante reasoning preference optimization: DPO whose margin must be larger the shorter the chosen answer is than the rejected one (Feng et al. 2025, arXiv:2504.02725, stage 3; the form of the length term is derived here).

    The method's three stages are three chained jobs, each with the model of the one before: `sft` on reasoned
    answers, `dpo` on safe and useful against unsafe or refused ones, and rounds of `erpo` on pairs drawn from the last
    round's model, whose `model` and `reference` it is.
    """

    length_weight: float = Field(
        0.5,
        ge=0,
        le=100,
        description="Extra margin for an answer of no length against a long one, in units of the reward; 0 is DPO.",
    )
