"""Objectives on single completions that are desirable or not."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.rules import Rule, field


class Kto(PreferenceObjective, key="kto"):
    """Kahneman-Tversky optimization on unpaired desirable and undesirable completions (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8)."""

    data_shape = "unpaired"
    smallest_batch = 2  # the KL term is estimated from completions paired with other rows' prompts

    beta: float = Field(
        0.1, gt=0, le=100, description="Risk aversion: scale of the log-ratio inside the value function."
    )
    desirable_weight: float = Field(1.0, gt=0, le=1000, description="Weight of desirable rows (lambda_D).")
    undesirable_weight: float = Field(1.0, gt=0, le=1000, description="Weight of undesirable rows (lambda_U).")


class ApoZeroUnpaired(PreferenceObjective, key="apoZeroUnpaired"):
    """Anchored preference optimization (zero) on unpaired completions: KTO with the reference point at 0, for desirable completions better than the model's own (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, one side a row)."""

    data_shape = "unpaired"

    beta: float = Field(0.1, gt=0, le=100, description="Scale of the log-ratio.")
    desirable_weight: float = Field(1.0, gt=0, le=1000, description="Weight of desirable rows.")
    undesirable_weight: float = Field(1.0, gt=0, le=1000, description="Weight of undesirable rows.")


class Bco(PreferenceObjective, key="bco"):
    """Binary classifier optimization: a logistic classifier of desirable against undesirable whose logit is the implicit reward minus its running mean (Jung et al. 2024, arXiv:2404.04656)."""

    data_shape = "unpaired"
    needs_whole_step = True

    beta: float = Field(0.1, gt=0, le=100, description="Scale of the log-ratio: the implicit reward is beta h.")
    reward_memory: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Rows of a kind that the running mean of its rewards remembers: once so many are seen, the mean is exponential with this many rows as time constant. Default: the plain mean of all rows so far.",
    )


class Pmpo(PreferenceObjective, key="pmpo"):
    """Preference optimization as probabilistic inference: likelihood up on desirable, down on undesirable completions, held by the KL divergence from the reference to the policy over the vocabulary; works with one kind of feedback alone (Abdolmaleki et al. 2024, arXiv:2410.04166, eq. 10)."""

    data_shape = "unpaired"
    needs_reference_kl = True

    rules: ClassVar = (
        Rule(
            (field("beta") > 0.0).when(field("alpha") < 1.0),
            "beta must be above 0 where alpha is below 1: nothing else bounds how far undesirable completions fall",
            path="beta",
        ),
    )

    alpha: float = Field(
        0.5, ge=0, le=1, description="Weight of desirable rows; undesirable rows weigh 1 - alpha. 1 ignores them."
    )
    beta: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="Weight of KL(reference || policy). Rows drawn from the reference have an optimum when it is above 1 - alpha.",
    )
