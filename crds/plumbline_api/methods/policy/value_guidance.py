"""Objectives that leave the model as it is and learn what guides its sampling."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.policy.family import WITHOUT_BASELINE, PolicyObjective


class QSharp(PolicyObjective, key="qSharp"):
    """Q#: a head on the frozen model learns p, the chance that the model succeeds after each next token, from its own completions of what guided sampling began; guided logits are logits / temperature + Q / eta with Q = eta log(1 - p + p exp(1 / eta)) (Zhou et al. 2025, arXiv:2502.20548). The result is the model with the head beside it."""

    aggregation = "tokenMean"
    advantage = WITHOUT_BASELINE
    uses_zero_advantages = True
    guides = True

    eta: float = Field(
        0.1,
        gt=0,
        le=1000,
        description="Strength of the KL penalty that the guided policy is optimal for; less guides more.",
    )
    candidates: int = Field(
        32,
        ge=1,
        le=1_000_000,
        description="The model's so many likeliest next tokens are guided, and the others ruled out: little is known of their success.",
    )
    width: int = Field(128, ge=1, le=65_536, description="Features of the head.")
    threshold: float = Field(1.0, ge=-1000, le=1000, description="Least reward of a success.")
    keep_rollouts: int = Field(
        4,
        ge=1,
        le=1024,
        description="Every step learns from so many of the newest rollouts, which checkpoints hold.",
    )
