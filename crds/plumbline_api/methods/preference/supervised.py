"""Objectives on demonstrations, and likelihood training that also sees what not to say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


class Sft(PreferenceObjective, key="sft"):
    """Supervised fine-tuning: mean negative log-likelihood of completion tokens."""

    data_shape = "completions"
    needs_reference = False
    needs_tokens = True


class SftDivergence(PreferenceObjective, key="sftDivergence"):
    """Supervised fine-tuning as implicit reward learning under another f-divergence: each token's gradient shrinks as the policy's log-ratio to the reference grows, so the policy drifts less (Wang et al. 2025, arXiv:2507.00018; derived form, see the objective's documentation)."""

    data_shape = "completions"
    needs_tokens = True

    divergence: Literal["kl", "pearson", "hellinger"] = Field(
        "pearson",
        description="kl has the gradient of plain supervised fine-tuning; pearson (chi-square) stops at a log-ratio of 2/beta; hellinger (squared) slows down without ever stopping.",
    )
    beta: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Scale of the implicit reward beta log(pi/pi_ref) of a token: the larger, the closer to the reference. Without effect for kl.",
    )


class Unlikelihood(PreferenceObjective, key="unlikelihood"):
    """Unlikelihood training on pairs: likelihood of the tokens of the chosen completion, and -log(1 - p) of the tokens of the rejected one (Welleck et al. 2020, arXiv:1908.04319, sec. 5)."""

    needs_reference = False
    needs_tokens = True

    alpha: float = Field(1.0, ge=0, le=1000, description="Weight of the unlikelihood of rejected tokens.")
