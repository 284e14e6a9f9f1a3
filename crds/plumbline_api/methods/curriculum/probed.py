"""Curricula that ask once, before the first step, how well the model does on each prompt."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.curriculum.family import Curriculum
from plumbline_api.rules import Rule, field


class ProbedCurriculum(Curriculum):
    """Parameters that curricula with a probe share; not a method itself."""

    probes = True

    probe_samples: int = Field(
        8,
        ge=2,
        le=1024,
        description="Completions of each training prompt that are sampled and judged before the first step; their pass rates are kept in the checkpoint.",
    )


class PassRateBand(ProbedCurriculum, key="passRateBand"):
    """Only prompts that the start model solves neither nearly always nor nearly never: those whose probed pass rate lies in a band, in random order ("Unlocking the Potential of Difficulty Prior in RL-based Multimodal Reasoning", 2025: offline curation by rounds of sampling)."""

    rules: ClassVar = (
        Rule(field("minimum") < field("maximum"), "minimum must be below maximum: the band is empty", path="minimum"),
    )

    minimum: float = Field(0.1, ge=0, le=1, description="Lowest pass rate that stays.")
    maximum: float = Field(0.9, ge=0, le=1, description="Highest pass rate that stays.")


class HardestShare(ProbedCurriculum, key="hardestShare"):
    """Only the share of the prompts that the start model fails most often, in random order ("Hard Examples Are All You Need: Maximizing GRPO Post-Training Under Annotation Budgets", 2025). A prompt that is never solved gives no signal however hard it is: `unsolved: drop` takes the share of those that the probe solved at least once."""

    fraction: float = Field(0.1, gt=0, le=1, description="Share of the prompts that stays, rounded up.")
    unsolved: Literal["keep", "drop"] = Field(
        "keep",
        description="Prompts without any correct completion in the probe: keep has them among the hardest, as in the paper; drop leaves them out before the share is taken.",
    )


class RewardDeviation(ProbedCurriculum, key="rewardDeviation"):
    """Only prompts whose rewards differ under the start model: the expected gradient of a prompt vanishes with the standard deviation of its reward, even where the reward is far from the best ("Vanishing Gradients in Reinforcement Finetuning of Language Models", Razin et al. 2023, arXiv:2310.20703)."""

    minimum: float = Field(
        0.05, gt=0, le=1000, description="Lowest standard deviation of the probed rewards that stays."
    )


class PassRateOrder(ProbedCurriculum, key="passRateOrder"):
    """All prompts, sorted by the start model's pass rate, again in every epoch: easiest first is the classical curriculum (Bengio et al. 2009, "Curriculum Learning"). Prompts of one pass rate come in random order."""

    first: Literal["easiest", "hardest"] = Field("easiest", description="Which end of the order comes first.")
