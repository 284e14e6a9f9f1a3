"""Estimators that know the value of what is written so far."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.advantage.family import Advantage


class TemporalDifferences(Advantage):
    """Parameters of estimators that sum temporal differences of a critic's values; not an estimator itself."""

    needs_values = True
    uses_token_rewards = True
    keeps_scale = ("normalize", "none")

    gamma: float = Field(1.0, gt=0, le=1, description="Discount of a reward that comes one token later.")
    lambda_: float = Field(
        1.0,
        ge=0,
        le=1,
        alias="lambda",
        description="Decay of temporal differences: at 1 the return minus the value, without bias; at 0 one difference, with the least variance.",
    )
    normalize: Literal["batch", "none"] = Field(
        "batch",
        description="batch subtracts the mean over all tokens of the rollout and divides by the standard deviation, none leaves advantages as they are.",
    )


class GeneralizedAdvantage(TemporalDifferences, key="gae"):
    """Generalized advantage estimation: temporal differences of a critic's values, summed with decay gamma lambda (Schulman et al. 2015, arXiv:1506.02438, eq. 16). With gamma and lambda 1, PPO as in Open-Reasoner-Zero (Hu et al. 2025, arXiv:2503.24290)."""


class FrozenValue(Advantage, key="frozenValue"):
    """The value that a frozen model gives to what is written once the token is there, at the last token the reward, normalised over all tokens of the rollout (after DVPO; Huang et al. 2025, arXiv:2502.16944)."""

    needs_values = True
    needs_frozen_values = True
    uses_token_rewards = True
    keeps_scale = False

    baseline: Literal["none", "value"] = Field(
        "none", description="value subtracts the value before the token, none leaves it to the normalisation."
    )


class MonteCarloValue(Advantage, key="monteCarloValue"):
    """The tokens of a step share the difference of the values after and before it, each the mean reward of completions that start there (VinePPO; Kazemnejad et al. 2024, arXiv:2410.01679)."""

    needs_continuations = True

    continuations: int = Field(9, ge=1, le=1024, description="Completions sampled from the end of each step (K).")
    separator: str = Field(
        "\n",
        min_length=1,
        max_length=64,
        description="Text that ends a step; the token that completes it belongs to the step.",
    )
    max_steps: int = Field(
        16,
        ge=1,
        le=1024,
        description="Most steps of a completion; with more, neighbours are merged into steps of about equal number.",
    )
