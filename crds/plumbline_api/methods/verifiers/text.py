"""Verifiers that look at the text alone."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, has


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


RegularExpression = Annotated[str, AfterValidator(_compiles)]
"""A Python regular expression. Only Python can tell whether it is one, so the API server checks its length alone."""


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
