"""What makes prompts in place of a file. Each class is one generator with its parameters."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from plumbline_api.base import Choice, Family


class PromptGenerator(Family):
    """Makes the rows of a set of prompts."""


class ReasoningGym(PromptGenerator, key="reasoningGym"):
    """Problems of one task of the library reasoning-gym (Reasoning Gym: Reasoning Environments for Reinforcement Learning with Verifiable Rewards, Stojanovski et al. 2025, arXiv:2505.24760), to be scored by the verifier `reasoningGym`. The trainer's image must have the library."""

    task: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[a-z0-9_]+$",
        description="Name of the task in the library, such as chain_sum or countdown.",
    )
    size: int = Field(1000, ge=1, le=1_000_000, description="How many problems.")
    seed: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Problems follow from it. Other seeds give other problems, as far as the task has that many.",
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        max_length=64,
        description="Parameters of the task, by the library's own names; those that are left out have the library's defaults.",
    )


class PromptGeneratorChoice(Choice, family=PromptGenerator):
    """What makes the prompts: exactly one generator."""
