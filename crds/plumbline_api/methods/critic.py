"""Where the values of what is written so far come from, and how they are learnt."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.rules import Rule, field, has
from plumbline_api.sources import SourceChoice


class ValueLoss(Family):
    """What a critic's output is, and how far it is from the return."""


class SquaredError(ValueLoss, key="mse"):
    """The output is the value; half the squared difference from the return (Schulman et al. 2017, arXiv:1707.06347, eq. 9)."""

    clip: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Most that a value may gain by moving away from what it was before the rollout's updates (PPO's value clipping); default: no limit.",
    )


class CrossEntropy(ValueLoss, key="bce"):
    """The output is the log-odds of success; cross-entropy with the return, which must be within 0 and 1 (Ayoub et al. 2024, arXiv:2403.05385). For verifiable rewards, whose value is a success rate."""


class Categorical(ValueLoss, key="categorical"):
    """The output is a distribution over fixed returns, its mean the value; cross-entropy with the return spread over them (C51; Bellemare et al. 2017, arXiv:1707.06887; for regression Farebrother et al. 2024, arXiv:2403.03950)."""

    rules: ClassVar = (
        Rule(field("vMin") < field("vMax"), "vMin must be below vMax", path="vMin"),
        Rule(
            (~has("sigma")).unless(field("projection").equals("gaussian")),
            "sigma must not be set unless projection is gaussian",
            path="sigma",
        ),
    )

    atoms: int = Field(51, ge=2, le=1024, description="Returns that the distribution is over, evenly spaced.")
    v_min: float = Field(0.0, ge=-1e6, le=1e6, description="The lowest of them; rewards must not be below.")
    v_max: float = Field(1.0, ge=-1e6, le=1e6, description="The highest of them; rewards must not be above.")
    projection: Literal["twoHot", "gaussian"] = Field(
        "twoHot",
        description="How a return is spread: twoHot over its two neighbours, which keeps the mean; gaussian as the normal distribution around it (HL-Gauss), whose mean is kept only some sigma away from vMin and vMax.",
    )
    sigma: float | None = Field(
        None, gt=0, le=1e6, description="Standard deviation with gaussian; default: 0.75 of the atoms' distance."
    )


class ValueLossChoice(Choice, family=ValueLoss):
    """How values are learnt and read: exactly one loss."""


class Critic(Family):
    """Where values come from."""

    loss: ValueLossChoice = Field(
        default_factory=lambda: ValueLossChoice.of("mse"), description="How values are learnt and read."
    )


class TrainedCritic(Critic):
    """Parameters of critics that learn beside the policy; not a critic itself."""

    learning_rate: float = Field(1e-4, gt=0, le=1, description="Learning rate of the critic's own parameters (AdamW).")
    lambda_: float = Field(
        1.0,
        ge=0,
        le=1,
        alias="lambda",
        description="Decay of temporal differences in the returns that values are fitted to; 1 takes rewards alone. Independent of the advantage's lambda.",
    )


class SharedCritic(TrainedCritic, key="shared"):
    """A linear head on the hidden states of the policy, from the same forward pass. The smallest critic; the head is no part of the result."""

    trunk_coefficient: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of the value loss in the gradient of the policy's own layers; 0 leaves them to the policy objective.",
    )


class SeparateCritic(TrainedCritic, key="separate"):
    """A model of its own with a scalar head, as in PPO; it is no part of the result."""

    learning_rate: float = Field(1e-5, gt=0, le=1, description="Learning rate of the critic (AdamW).")
    source: SourceChoice | None = Field(
        None,
        description="Where the model's directory is, a language model or a reward model with the policy's tokenizer; default: the policy's.",
    )


class FrozenCritic(Critic, key="frozen"):
    """A model with a scalar head that was trained before and does not change (global value model; Huang et al. 2025, arXiv:2502.16944); loss says how its outputs are read."""

    rules: ClassVar = (
        Rule(
            ~has("source.configMap"),
            "source.configMap must not be set: a model is a directory, and a ConfigMap cannot hold one",
            path="source.configMap",
        ),
    )

    source: SourceChoice = Field(
        description="Where the model's directory is: a sequence classification model whose tokenizer is the policy's, such as a reward model."
    )


class CriticChoice(Choice, family=Critic):
    """The critic: exactly one kind."""
