"""Rewards that look for where in its thinking a completion finds the answer."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.regular_expression import RegularExpression
from plumbline_api.methods.shaping.family import ColumnName, Shaping


class AnswerSearch(Shaping):
    """How answers are found inside of a text."""

    pattern: RegularExpression = Field(
        r"-?\d+(?:\.\d+)?",
        min_length=1,
        max_length=512,
        description="Regular expression of what may be an answer; its first group, or else the whole match, is compared.",
    )
    answer_column: ColumnName = Field("answer", description="Column with the right answer.")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.answer_column,)


class LengthCompression(AnswerSearch, key="lengthCompression"):
    """LC-R1: right completions earn by being short within their group, and lose at the place where their thinking goes on after the first right answer, by the share of it that follows (Cheng et al. 2025, arXiv:2506.14755)."""

    needs_token_positions: ClassVar[bool] = True

    length_weight: float = Field(1.0, ge=0, le=1000, description="Factor of 1 - length / longest right completion.")
    compress_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="What is lost where all of the thinking comes after the answer, or where the answer never comes up in it.",
    )
    end_of_thinking: str = Field("</think>", min_length=1, max_length=128, description="Text at which thinking ends.")


class SolutionEfficiency(AnswerSearch, key="solutionEfficiency"):
    """Overthinking metrics: the share of a right completion up to its first right answer (outcome efficiency) and the share of it in solutions that differ from those before (process efficiency); with a weight the first is a reward, too (Chen et al. 2024, arXiv:2412.21187). Evaluations show them as well."""

    measures_held_out = True

    pattern: RegularExpression = Field(
        r"\\boxed\{([^{}]*)\}",
        min_length=1,
        max_length=512,
        description="Regular expression of what ends a solution; its first group, or else the whole match, is the answer.",
    )
    similarity: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Share of common words (Jaccard index) from which on two solutions count as the same.",
    )
    weight: float = Field(0.0, ge=0, le=1000, description="Factor of the outcome efficiency in the reward.")
