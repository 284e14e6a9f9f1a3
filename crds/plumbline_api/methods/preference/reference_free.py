"""Objectives on pairs that need no reference model."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


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


class AlphaPo(PreferenceObjective, key="alphapo"):
    """AlphaPO: SimPO with a reward whose shape alpha bends, (1 - p^-alpha) / alpha of the length-normalised probability p; alpha 0 is SimPO (Gupta et al. 2025, arXiv:2501.03884)."""

    needs_reference = False

    beta: float = Field(2.0, gt=0, le=100, description="Scale of the reward.")
    gamma: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Target margin between the rewards of chosen and rejected (absolute, in the units of the scaled reward).",
    )
    alpha: float = Field(
        0.25,
        ge=-10,
        le=10,
        description="Shape of the reward: above 0 it falls ever faster as the probability goes to 0, below 0 it flattens out; 0 is the log-probability.",
    )


class Orpo(PreferenceObjective, key="orpo"):
    """Odds ratio preference optimization: likelihood of the chosen completion plus a logistic loss on the ratio of the odds of chosen to rejected, in one stage and without a reference (Hong et al. 2024, arXiv:2403.07691, eq. 6)."""

    needs_reference = False

    odds_ratio_weight: float = Field(
        0.1, ge=0, le=1000, description="Weight of the odds ratio term beside the likelihood (lambda)."
    )


class Cpo(PreferenceObjective, key="cpo"):
    """Contrastive preference optimization: DPO with a uniform reference, plus the likelihood of the chosen completion (Xu et al. 2024, arXiv:2401.08417, sec. 3.2)."""

    needs_reference = False

    beta: float = Field(0.1, gt=0, le=100, description="Scale of the log-probability reward.")
    likelihood_weight: float = Field(
        1.0, ge=0, le=1000, description="Weight of the negative log-likelihood of the chosen completion."
    )
    length_normalized: bool = Field(
        True,
        description="Average the negative log-likelihood over completion tokens, as reference implementations do; false sums it as in the paper. The preference term always takes sums.",
    )


class Slic(PreferenceObjective, key="slic"):
    """Sequence likelihood calibration (SLiC-HF): a hinge on the log-probabilities of chosen and rejected, plus the likelihood of the chosen completion as target (Zhao et al. 2023, arXiv:2305.10425)."""

    needs_reference = False

    delta: float = Field(
        1.0, gt=0, le=10000, description="Margin in log-probability from which a pair no longer counts."
    )
    likelihood_weight: float = Field(
        0.1,
        ge=0,
        le=1000,
        description="Weight of the negative log-likelihood of the chosen completion (lambda), summed over its tokens.",
    )


class Redi(PreferenceObjective, key="redi"):
    """Reinforcement distillation (REDI), second stage after supervised fine-tuning: raises the length-normalised log-probability of positive traces and lowers that of negative ones with a smaller weight, without a reference (Xu et al. 2025, arXiv:2505.24850)."""

    needs_reference = False

    alpha: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Weight of negative traces against positive ones. 0 learns from positive traces only; at 1, the symmetric loss, the probability of positive traces may collapse with that of the negative ones.",
    )
