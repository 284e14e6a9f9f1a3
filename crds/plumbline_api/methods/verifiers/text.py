"""Verifiers that look at the text alone."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.regular_expression import RegularExpression
from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, has


class ExactMatch(Verifier, key="exactMatch"):
    """1 if the completion equals the answer, else 0."""

    strip: bool = Field(True, description="Ignore white space at both ends.")
    ignore_case: bool = Field(False, description="Ignore letter case.")
    extract: RegularExpression | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="Regular expression whose first group (or whole match) in the completion is compared; the last match counts. Without a match the reward is 0.",
    )


class Regex(Verifier, key="regex"):
    """Format reward: 1 if the regular expression matches the completion, else 0."""

    needs_answer = False

    pattern: RegularExpression = Field(min_length=1, max_length=1024, description="Python regular expression.")
    mode: Literal["search", "fullMatch"] = Field(
        "fullMatch", description="Whether the whole completion must match or any part of it."
    )


class MultipleChoice(Verifier, key="multipleChoice"):
    """1 if the completion chooses the answer's option, else 0. The choice is read from a box, `<answer>` tags, a phrase such as "the answer is (C)", or a completion that is one letter or one option; a completion that names several options as its answer chooses none."""

    rules: ClassVar = (
        Rule(
            ~(has("options") & has("choicesColumn")),
            "options must not be set with choicesColumn, which says for each row how many there are",
            path="options",
        ),
    )

    options: int | None = Field(
        None, ge=2, le=26, description="How many options there are, called A, B, C and so on. Default: 4."
    )
    choices_column: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Column with the list of options as text, where it differs from row to row; the answer is then a letter or one of the texts, and so may be the completion's choice.",
    )
