"""Help from outside for prompts whose samples all fail: hints, reference solutions, demonstrations."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.exploration.family import Rescue
from plumbline_api.rules import Rule, field


class Guidance(Rescue, key="guidance"):
    """Guide: prompts that no sample solves are sampled again with a hint in the prompt; those completions join the group and train the policy for the prompt without the hint, with the importance ratio pi(y | prompt) / pi_old(y | prompt, hint) ("Adaptive Guidance Accelerates Reinforcement Learning of Reasoning Models", Nath et al. 2025, arXiv:2506.13923)."""

    column_field = "column"
    rules: ClassVar = (
        Rule(field("template").matches(r"\{hint\}"), "template must contain {hint}: the hint's place", path="template"),
        Rule(
            field("template").matches(r"\{prompt\}"),
            "template must contain {prompt}: the prompt's place",
            path="template",
        ),
    )

    column: str = Field("hint", min_length=1, max_length=128, description="Column of the training rows with the hint.")
    template: str = Field(
        "{prompt}\n\nHint: {hint}",
        min_length=6,
        max_length=4096,
        description="What the prompt, or the last message of a chat, becomes; {prompt} and {hint} are put in.",
    )
    samples: int = Field(4, ge=1, le=4096, description="Completions with the hint for each such prompt.")
    importance_correction: bool = Field(
        True,
        description="Whether the ratio's denominator is the probability with the hint, as completions were sampled, which learns without bias but hardly from what the policy finds hopeless without the hint; false takes the one without, which learns from it as from a solution.",
    )


class Gold(Rescue, key="gold"):
    """GCPO: where no sample is right, the row's reference solution takes the place of one of them with a reward of its own, so that the group has a right answer to compare with ("GCPO: When Contrast Fails, Go Gold", Wu and Liu 2025, arXiv:2510.07790)."""

    column_field = "column"

    column: str = Field(
        "solution",
        min_length=1,
        max_length=128,
        description="Column of the training rows with a right completion, written as the model should write it.",
    )
    reward: float = Field(1.0, ge=-1000, le=1000, description="Reward of the reference solution.")
    behaviour: Literal["policy", "certain"] = Field(
        "policy",
        description="Denominator of the solution's importance ratio, which nobody sampled: policy takes the policy's own probability before the update, so that the ratio starts at 1; certain takes 1, so that the ratio is the policy's probability.",
    )


class Demonstration(Rescue, key="demonstration"):
    """Hybrid post-training: a prompt whose success rate is not above a threshold is learnt from its demonstration alone, by likelihood and whatever the objective, and any other from its samples alone ("Towards a Unified View of Large Language Model Post-Training", Lv et al. 2025, arXiv:2509.04419)."""

    column_field = "column"

    column: str = Field(
        "solution",
        min_length=1,
        max_length=128,
        description="Column of the training rows with a right completion, written as the model should write it.",
    )
    threshold: float = Field(
        0.0, ge=0, lt=1, description="Highest success rate at which the demonstration is learnt from."
    )
    weight: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Factor of the demonstration's log-likelihood in the loss, where it is one completion among those of the step: at 1 the prompt weighs as much as one sample of another prompt, at rollout.groupSize as much as all of them.",
    )
