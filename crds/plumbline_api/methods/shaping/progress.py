"""Rewards for single parts of a completion by how much nearer they bring the answer."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.regular_expression import RegularExpression
from plumbline_api.methods.shaping.family import Shaping


class Progress(Shaping, key="progress"):
    """Meta reinforcement fine-tuning: every segment of a completion earns by how much it raises the success rate of an answer that is forced there and then (MRT; Qu et al. 2025, arXiv:2503.07572)."""

    needs_token_positions: ClassVar[bool] = True
    needs_prefix_values: ClassVar[bool] = True

    coefficient: float = Field(0.2, ge=0, le=1000, description="Factor of the progress of a segment.")
    segment_end: RegularExpression = Field(
        r"\n\n", min_length=1, max_length=512, description="Regular expression of what ends a segment."
    )
    max_segments: int = Field(
        16, ge=1, le=256, description="The most segments of a completion; the last one takes what is left."
    )
    forced_answer: str = Field(
        "\nTime is up.\nThe answer is ",
        min_length=1,
        max_length=4096,
        description="Text that is appended to a prefix to make the policy answer at once.",
    )
    probes: int = Field(4, ge=1, le=256, description="Forced answers of each prefix.")
    max_probe_tokens: int = Field(
        32, ge=1, le=4096, description="Longest forced answer; at most training.maxCompletionTokens."
    )
