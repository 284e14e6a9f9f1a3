"""Objectives on pairs that see the difference of the log-ratios of policy to reference: DPO and its relatives."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.rules import Rule, field, has


class LogRatioObjective(PreferenceObjective):
    """Objectives on pairs whose implicit reward is beta times the log-ratio of policy to reference."""

    beta: float = Field(
        0.1, gt=0, le=100, description="Inverse temperature: how strongly the policy is held to the reference."
    )


class Dpo(LogRatioObjective, key="dpo"):
    """Direct preference optimization: logistic loss on the difference of policy-to-reference log-ratios (Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing: Mitchell 2023, conservative DPO; divergences other than reverse KL: Wang et al. 2023, arXiv:2309.16240; length normalisation: Lambert et al. 2024, arXiv:2411.15124)."""

    rules: ClassVar = (
        Rule(
            field("labelSmoothing") < 0.5,
            "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
            path="labelSmoothing",
        ),
        Rule(
            has("divergenceAlpha").unless(field("divergence").differs("alpha")),
            "divergence alpha needs divergenceAlpha, its coefficient between 0 and 1",
            path="divergenceAlpha",
        ),
        Rule(
            (~has("divergenceAlpha")).unless(field("divergence").equals("alpha")),
            "divergenceAlpha is the coefficient of divergence alpha; set divergence to alpha or leave it out",
            path="divergenceAlpha",
        ),
        Rule(
            field("divergence").equals("reverseKl").unless(field("lengthNormalized").equals(False)),
            "lengthNormalized is defined for divergence reverseKl only",
            path="lengthNormalized",
        ),
    )

    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="Assumed probability that a preference label is flipped (conservative DPO)."
    )
    divergence: Literal["reverseKl", "forwardKl", "jensenShannon", "alpha"] = Field(
        "reverseKl",
        description="How the distance of policy and reference is measured. reverseKl is DPO; the others hold back probability that would leave what the reference covers.",
    )
    divergence_alpha: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Coefficient of divergence alpha: reverse KL as it goes to 0, forward KL as it goes to 1.",
    )
    length_normalized: bool = Field(
        False,
        description="Divide each log-ratio by its number of completion tokens. Margins are then smaller by that number: published runs use a beta of about 5.",
    )


class TrDpo(LogRatioObjective, key="trDpo"):
    """Trust region DPO: DPO whose reference follows the policy, softly or by whole copies (Gorbatovski et al. 2024, arXiv:2404.09656)."""

    moves_reference = True

    mix: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Share of the policy in the parameters of the new reference; 1 copies the policy (hard update).",
    )
    every_steps: int = Field(
        512, ge=1, le=1_000_000, description="Optimizer steps between two updates of the reference."
    )


class StepDpo(LogRatioObjective, key="stepDpo"):
    """Step-wise DPO: DPO on one step of a solution, given the steps before it, which both sides share and which carry no loss (Lai et al. 2024, arXiv:2406.18629; for long texts, LongDPO: Ping et al. 2025, arXiv:2502.02095)."""

    needs_prefix = True

    beta: float = Field(
        0.4, gt=0, le=100, description="Inverse temperature: how strongly the policy is held to the reference."
    )


class Robust(LogRatioObjective, key="robust"):
    """Robust DPO: a loss whose expectation over labels flipped at a known rate is DPO's loss on the right labels (Chowdhury et al. 2024, arXiv:2403.00409)."""

    rules: ClassVar = (
        Rule(
            field("flipRate") < 0.5,
            "flipRate must be below 0.5: at 0.5 the labels say nothing",
            path="flipRate",
        ),
    )

    flip_rate: float = Field(
        0.1, ge=0, le=0.5, description="Probability with which a label of the data is the wrong way round."
    )


class Ipo(PreferenceObjective, key="ipo"):
    """Identity preference optimization: squared distance of the log-ratio margin from 1/(2 tau) (Azar et al. 2023, arXiv:2310.12036, eq. 17)."""

    tau: float = Field(0.1, gt=0, le=100, description="Regularisation strength; the margin's target is 1/(2 tau).")
    length_normalized: bool = Field(
        True,
        description="Average log-probabilities over completion tokens before taking the margin, as reference implementations do; false sums them as in the paper.",
    )


class Hinge(LogRatioObjective, key="hinge"):
    """Hinge loss on the margin of implicit rewards: sequence likelihood calibration (Zhao et al. 2023, arXiv:2305.10425) with log-ratios in place of log-probabilities (Liu et al. 2023, arXiv:2309.06657)."""


class Exo(LogRatioObjective, key="exo"):
    """Efficient exact optimization on pairs: reverse KL from the policy's preference to the smoothed label, where DPO takes the forward KL (Ji et al. 2024, arXiv:2402.00856, eq. 16)."""

    rules: ClassVar = (
        Rule(
            field("labelSmoothing") < 0.5,
            "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
            path="labelSmoothing",
        ),
    )

    label_smoothing: float = Field(
        0.001,
        gt=0,
        le=0.5,
        description="Probability that the label gives to the rejected completion. It must not be 0, where the divergence is infinite.",
    )


class Discopop(LogRatioObjective, key="discopop"):
    """Discovered preference optimization: a blend of logistic and exponential loss that a search over programs found (Lu et al. 2024, arXiv:2406.08414, eq. 5, "log ratio modulated loss")."""

    temperature: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Width of the blend in units of the margin. Above 1 the loss of wrongly ordered pairs would grow exponentially.",
    )
