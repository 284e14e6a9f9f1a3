"""Curricula that follow what the policy learns."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.curriculum.family import Curriculum


class SelfEvolving(Curriculum, key="selfEvolving"):
    """A bandit over categories of prompts: each slot of a rollout draws a category with probability softmax(Q / temperature), and Q follows the mean absolute advantage of the category's completions, Q <- rate * mean|A| + (1 - rate) * Q ("Self-Evolving Curriculum for LLM Reasoning", Chen et al. 2025, arXiv:2505.14970). What is always or never solved has advantages of 0 and is drawn less."""

    category_column: str = Field(
        min_length=1,
        max_length=128,
        description="Column of the training rows that names the category, such as a level of difficulty or a kind of problem.",
    )
    rate: float = Field(0.5, gt=0, le=1, description="How far one rollout moves a category's value Q.")
    temperature: float = Field(
        1.0, gt=0, le=1000, description="Softmax temperature over the values; lower concentrates on the best category."
    )
