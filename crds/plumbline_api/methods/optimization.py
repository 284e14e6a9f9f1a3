"""Optimizers, learning-rate schedules and parameter-efficient adapters."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.rules import Rule, field


class Optimizer(Family):
    """The update rule."""


class AdamW(Optimizer, key="adamw"):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    learning_rate: float = Field(1e-5, gt=0, le=1, description="Peak learning rate.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment.")
    epsilon: float = Field(1e-8, gt=0, le=1, description="Added to the root of the second moment.")
    weight_decay: float = Field(0.0, ge=0, le=10, description="Decoupled weight decay; biases and norms are exempt.")


class Sgd(Optimizer, key="sgd"):
    """Stochastic gradient descent with optional momentum."""

    rules: ClassVar = (
        Rule(
            (field("momentum") > 0.0).when(field("nesterov")),
            "nesterov needs momentum above 0",
            path="nesterov",
        ),
    )

    learning_rate: float = Field(1e-3, gt=0, le=10, description="Peak learning rate.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum factor.")
    nesterov: bool = Field(False, description="Nesterov's momentum; needs momentum above 0.")
    weight_decay: float = Field(0.0, ge=0, le=10, description="L2 weight decay.")


class Schedule(Family):
    """The learning rate over the run, as a factor of the optimizer's peak."""

    warmup_fraction: float = Field(
        0.0, ge=0, le=1, description="Share of the steps over which the rate rises linearly from 0."
    )


class Constant(Schedule, key="constant"):
    """Constant after warm-up."""


class Linear(Schedule, key="linear"):
    """Linear decay after warm-up."""

    final_fraction: float = Field(0.0, ge=0, le=1, description="Factor of the peak reached at the last step.")


class Cosine(Schedule, key="cosine"):
    """Cosine decay after warm-up (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5)."""

    final_fraction: float = Field(0.0, ge=0, le=1, description="Factor of the peak reached at the last step.")


class WarmupStableDecay(Schedule, key="warmupStableDecay"):
    """Warm-up, a constant stretch, then decay (Hu et al. 2024, arXiv:2404.06395, sec. 4.2)."""

    rules: ClassVar = (
        Rule(
            (field("warmupFraction") + field("decayFraction")) <= 1.0,
            "warmupFraction and decayFraction together must not be above 1",
            path="decayFraction",
        ),
    )

    decay_fraction: float = Field(
        0.1, ge=0, le=1, description="Share of the steps over which the rate falls at the end."
    )
    decay_shape: Literal["linear", "cosine", "sqrt"] = Field(
        "linear", description="Shape of the decay; sqrt is 1 - sqrt(t)."
    )
    final_fraction: float = Field(0.0, ge=0, le=1, description="Factor of the peak reached at the last step.")


class Peft(Family):
    """Parameter-efficient fine-tuning: which parameters are trained instead of all."""


ModuleName = Annotated[str, Field(min_length=1, max_length=128)]


class Lora(Peft, key="lora"):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685); rank-stabilised scaling: Kalajdzievski 2023, arXiv:2312.03732."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of the update of each adapted matrix.")
    alpha: float = Field(32.0, gt=0, le=65536, description="Scale: the update is multiplied by alpha/rank.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout on the adapter's input; 0 keeps runs deterministic across batch splits."
    )
    target_modules: list[ModuleName] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Names of the linear modules to adapt; default: every linear layer but the head.",
    )
    rank_stabilized: bool = Field(False, description="Scale by alpha/sqrt(rank) instead of alpha/rank.")
    merge_on_export: bool = Field(
        True, description="Merge the adapter into the exported model; false exports the adapter alone."
    )


class OptimizerChoice(Choice, family=Optimizer):
    """The update rule: exactly one optimizer."""


class ScheduleChoice(Choice, family=Schedule):
    """The learning-rate schedule: exactly one shape."""


class PeftChoice(Choice, family=Peft):
    """Parameter-efficient fine-tuning: exactly one kind of adapter."""
