"""Objectives on lists of scored completions of the same prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


class Rrhf(PreferenceObjective, key="rrhf"):
    """RRHF: a hinge on the length-normalised log-probabilities of all pairs of a list that stand in the wrong order, plus the likelihood of the best completion (Yuan et al. 2023, arXiv:2304.05302, sec. 3; on code with rewards from tests: Duan et al. 2023, arXiv:2312.05657)."""

    data_shape = "lists"
    needs_reference = False
    needs_scores = True

    sft_weight: float = Field(
        1.0, ge=0, le=1000, description="Weight of the negative log-likelihood of the best completion."
    )
    length_normalized: bool = Field(
        True,
        description="Average the negative log-likelihood of the best completion over its tokens, as the authors' code does; false sums it as in the paper.",
    )


class ExoListwise(PreferenceObjective, key="exoListwise"):
    """Efficient exact optimization with K completions: reverse KL from the distribution of implicit rewards over the list to that of the scores; its optimum is pi_ref exp(score / (betaPolicy betaReward)) (Ji et al. 2024, arXiv:2402.00856)."""

    data_shape = "lists"
    needs_scores = True

    beta_policy: float = Field(0.1, gt=0, le=100, description="Scale of the policy's log-ratios (beta_pi).")
    beta_reward: float = Field(1.0, gt=0, le=10000, description="Temperature of the scores (beta_r).")


class PlackettLuce(PreferenceObjective, key="plackettLuce"):
    """Listwise DPO: likelihood of the whole ranking of a list under the Plackett-Luce model of implicit rewards; two completions give DPO (Rafailov et al. 2023, arXiv:2305.18290, appendix A.3)."""

    data_shape = "lists"
    needs_scores = True

    beta: float = Field(
        0.1, gt=0, le=100, description="Inverse temperature: how strongly the policy is held to the reference."
    )


class LipoLambda(PreferenceObjective, key="lipoLambda"):
    """LiPO-lambda: DPO on all pairs of a list, each weighted by what swapping the two in the policy's present ranking would change in discounted cumulative gain (Liu et al. 2024, arXiv:2402.01878)."""

    data_shape = "lists"
    needs_scores = True

    beta: float = Field(0.05, gt=0, le=100, description="Scale of the policy's log-ratios.")
    gain: Literal["exponential", "linear"] = Field(
        "exponential",
        description="Gain of a score s: 2^s - 1 as in the paper, for scores of about 0 to 1, or s itself.",
    )
