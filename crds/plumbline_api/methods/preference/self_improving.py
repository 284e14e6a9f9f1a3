"""Objectives that train a model to answer and to improve an answer that it is shown."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective


class Srpo(PreferenceObjective, key="srpo"):
    """Self-improving robust preference optimization: one model learns to answer and to revise an answer, by squared losses whose optimum does not depend on which answers were compared (Choi et al. 2024, arXiv:2406.01660)."""

    needs_revisions: ClassVar[bool] = True

    beta: float = Field(
        0.01, gt=0, le=100, description="Strength with which answers and revisions are held to the reference."
    )
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the improver's loss; the rest is the loss that ties the answering policy to the improver.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Assumed probability that a label is flipped; 0 takes the chosen completion to win always.",
    )
    revision_template: str = Field(
        "{prompt}\n\nHere is an answer:\n{answer}\n\nImprove it.\n",
        min_length=1,
        max_length=4096,
        pattern=r"\{prompt\}[\s\S]*\{answer\}",
        description="What an improver reads where the tokenizer has no chat template: text with {prompt} and then {answer}.",
    )
    revision_request: str = Field(
        "Improve your answer.",
        min_length=1,
        max_length=4096,
        description="The user's turn that asks for a revision where the tokenizer has a chat template; it follows the prompt and the answer as the assistant's turn.",
    )
