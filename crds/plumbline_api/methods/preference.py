"""Objectives of PreferenceJob. Each class is one method: its parameters, bounds and the paper it comes from."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.rules import Rule, field

DataShape = Literal["pairs", "unpaired", "completions"]


class PreferenceObjective(Family):
    """What a preference job minimises."""

    data_shape: ClassVar[DataShape] = "pairs"
    """Rows it learns from: (prompt, chosen, rejected), (prompt, completion, label) or (prompt, completion)."""

    needs_reference: ClassVar[bool] = True
    """Whether log-probabilities under a frozen reference model enter the loss."""

    smallest_batch: ClassVar[int] = 1
    """Fewest rows of a step from which the loss can be computed."""

    trains_scalar_head: ClassVar[bool] = False
    """Whether the result is a reward model (`AutoModelForSequenceClassification`) and not a language model."""


class Dpo(PreferenceObjective, key="dpo"):
    """Direct preference optimization: logistic loss on the difference of policy-to-reference log-ratios (Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing: Mitchell 2023, conservative DPO)."""

    rules: ClassVar = (
        Rule(
            field("labelSmoothing") < 0.5,
            "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
            path="labelSmoothing",
        ),
    )

    beta: float = Field(
        0.1, gt=0, le=100, description="Inverse temperature: how strongly the policy is held to the reference."
    )
    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="Assumed probability that a preference label is flipped (conservative DPO)."
    )


class Ipo(PreferenceObjective, key="ipo"):
    """Identity preference optimization: squared distance of the log-ratio margin from 1/(2 tau) (Azar et al. 2023, arXiv:2310.12036, eq. 17)."""

    tau: float = Field(0.1, gt=0, le=100, description="Regularisation strength; the margin's target is 1/(2 tau).")
    length_normalized: bool = Field(
        True,
        description="Average log-probabilities over completion tokens before taking the margin, as reference implementations do; false sums them as in the paper.",
    )


class Simpo(PreferenceObjective, key="simpo"):
    """Simple preference optimization: length-normalised log-probabilities with a target margin and no reference model (Meng et al. 2024, arXiv:2405.14734, eq. 6)."""

    needs_reference = False

    beta: float = Field(2.0, gt=0, le=100, description="Scale of the length-normalised log-probability reward.")
    gamma: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Target margin between the rewards of chosen and rejected (absolute, in the units of the scaled reward).",
    )


class Kto(PreferenceObjective, key="kto"):
    """Kahneman-Tversky optimization on unpaired desirable and undesirable completions (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8)."""

    data_shape = "unpaired"
    smallest_batch = 2  # the KL term is estimated from completions paired with other rows' prompts

    beta: float = Field(
        0.1, gt=0, le=100, description="Risk aversion: scale of the log-ratio inside the value function."
    )
    desirable_weight: float = Field(1.0, gt=0, le=1000, description="Weight of desirable rows (lambda_D).")
    undesirable_weight: float = Field(1.0, gt=0, le=1000, description="Weight of undesirable rows (lambda_U).")


class Sft(PreferenceObjective, key="sft"):
    """Supervised fine-tuning: mean negative log-likelihood of completion tokens."""

    data_shape = "completions"
    needs_reference = False


class RewardModel(PreferenceObjective, key="rewardModel"):
    """Bradley-Terry reward model: a scalar head trained so that chosen scores above rejected (Ouyang et al. 2022, arXiv:2203.02155, eq. 1; centring: Eisenstein et al. 2023, arXiv:2312.09244)."""

    needs_reference = False
    trains_scalar_head = True

    centering_coefficient: float = Field(
        0.0, ge=0, le=10, description="Weight of the squared sum of both rewards, which keeps the mean reward at zero."
    )


class PreferenceObjectiveChoice(Choice, family=PreferenceObjective):
    """What the job minimises: exactly one method with its parameters."""
