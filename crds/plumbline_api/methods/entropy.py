"""What keeps up the entropy of the policy's next-token distributions, in nats."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.rules import Rule, field


class EntropyControl(Family):
    """How a coefficient times the entropy of every token's distribution is taken off its loss."""


class EntropyBonus(EntropyControl, key="bonus"):
    """A constant coefficient (Mnih et al. 2016, arXiv:1602.01783, sec. 4)."""

    coefficient: float = Field(0.001, gt=0, le=10, description="Weight of the entropy.")


class EntropyTarget(EntropyControl, key="target"):
    """A coefficient that rises by a step while entropy is below the target, falls by one while it is above, and acts only below it (Skywork-OR1; He et al. 2025, arXiv:2505.22312)."""

    rules: ClassVar = (
        Rule(
            field("initialCoefficient") <= field("maxCoefficient"),
            "initialCoefficient must not be above maxCoefficient",
            path="initialCoefficient",
        ),
    )

    target: float = Field(0.2, gt=0, le=20, description="Mean entropy of a token to hold, in nats.")
    step: float = Field(0.005, gt=0, le=10, description="Change of the coefficient in an optimizer step.")
    initial_coefficient: float = Field(0.0, ge=0, le=10, description="Coefficient of the first step.")
    max_coefficient: float = Field(1.0, gt=0, le=10, description="Greatest coefficient; the least is 0.")


class EntropyConstraint(EntropyControl, key="constraint"):
    """A coefficient learnt as the multiplier of the constraint that entropy is at least the target (SAC; Haarnoja et al. 2018, arXiv:1812.05905, sec. 5)."""

    rules: ClassVar = (
        Rule(
            field("initialCoefficient") <= field("maxCoefficient"),
            "initialCoefficient must not be above maxCoefficient",
            path="initialCoefficient",
        ),
    )

    target: float = Field(0.2, gt=0, le=20, description="Least mean entropy of a token, in nats.")
    learning_rate: float = Field(0.05, gt=0, le=10, description="Step size of the coefficient's logarithm.")
    initial_coefficient: float = Field(0.001, gt=0, le=10, description="Coefficient of the first step.")
    max_coefficient: float = Field(1.0, gt=0, le=10, description="Greatest coefficient.")


class EntropyBand(EntropyControl, key="band"):
    """No term while the mean entropy is inside the band, a bonus below it and a penalty above it."""

    rules: ClassVar = (
        Rule(field("low") < field("high"), "low must be below high: entropy is left alone between them", path="low"),
    )

    low: float = Field(0.1, ge=0, le=20, description="Below this mean entropy of a token, in nats, it is raised.")
    high: float = Field(1.0, gt=0, le=20, description="Above this mean entropy of a token, in nats, it is lowered.")
    coefficient: float = Field(0.001, gt=0, le=10, description="Weight of the entropy outside the band.")


class EntropySmoothing(EntropyControl, key="smoothing"):
    """A bonus, and a pull back into a band around the mean entropy of the last steps, which keeps entropy from collapsing and from running away in long episodes; the pull fades over the job's phases (EPO; Xu et al. 2025, arXiv:2509.22576)."""

    rules: ClassVar = (
        Rule(field("low") < field("high"), "low must be below high: entropy is left alone between them", path="low"),
    )

    bonus: float = Field(0.001, ge=0, le=10, description="Weight of the entropy itself, in every step.")
    coefficient: float = Field(0.1, gt=0, le=100, description="Strength of the pull into the band at the start.")
    low: float = Field(0.8, ge=0, le=1, description="The band begins at this share of the mean of the last steps.")
    high: float = Field(1.2, ge=1, le=100, description="The band ends at this multiple of the mean of the last steps.")
    window: int = Field(50, ge=1, le=10_000, description="Steps whose entropies the mean is of.")
    final_share: float = Field(
        1.0, gt=0, le=100, description="What is left of the pull after phaseSteps; above 1 it grows instead."
    )
    phase_steps: int = Field(
        1000, ge=1, le=10_000_000, description="Steps over which the pull changes, by the same factor in each."
    )


class EntropyChoice(Choice, family=EntropyControl):
    """How entropy is controlled: exactly one way."""
