"""Verifiers of instructions about the form of a text."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, any_of, field, has

Keyword = Annotated[str, Field(min_length=1, max_length=256)]

_IN_THE_SPEC = (
    "words",
    "sentences",
    "paragraphs",
    "bullets",
    "highlights",
    "keywords",
    "forbidden",
    "startsWith",
    "endsWith",
    "letterCase",
    "noCommas",
    "json",
    "title",
)


class Count(ApiModel):
    """How many there must be."""

    rules: ClassVar = (
        Rule(has("atLeast") | has("atMost"), "at least one of atLeast and atMost must be set"),
        Rule(
            (field("atLeast") <= field("atMost")).when(has("atLeast") & has("atMost")),
            "atLeast must not be above atMost",
            path="atLeast",
        ),
    )

    at_least: int | None = Field(None, ge=0, le=1_000_000, description="Fewest.")
    at_most: int | None = Field(None, ge=0, le=1_000_000, description="Most.")


class KeywordCount(ApiModel):
    """How often a text must occur."""

    rules: ClassVar = (
        Rule(
            (field("atLeast") <= field("atMost")).when(has("atMost")),
            "atLeast must not be above atMost",
            path="atLeast",
        ),
    )

    text: Keyword = Field(description="A word or phrase; letter case does not matter, and whole words only count.")
    at_least: int = Field(1, ge=0, le=1_000_000, description="Fewest times.")
    at_most: int | None = Field(None, ge=0, le=1_000_000, description="Most times.")


class Instructions(Verifier, key="instructions"):
    """Share of the instructions about its form that the completion follows, or 1 only if it follows all. Rules stand in the spec, for all rows, or in the rows, in the columns of IFEval (Instruction-Following Evaluation for Large Language Models, Zhou et al. 2023, arXiv:2311.07911)."""

    needs_answer = False

    rules: ClassVar = (
        Rule(
            any_of([field("fromRows").equals(True), *(has(name) for name in _IN_THE_SPEC)]),
            "at least one rule must be set, or fromRows: true",
        ),
    )

    words: Count | None = Field(None, description="Number of words.")
    sentences: Count | None = Field(
        None, description="Number of sentences: texts that end with a full stop, exclamation or question mark."
    )
    paragraphs: Count | None = Field(None, description="Number of paragraphs, which empty lines separate.")
    bullets: Count | None = Field(None, description="Number of lines that begin with * or -.")
    highlights: Count | None = Field(None, description="Number of parts marked *so* or **so**.")
    keywords: list[KeywordCount] | None = Field(
        None, min_length=1, max_length=64, description="Texts that must occur, and how often."
    )
    forbidden: list[Keyword] | None = Field(
        None, min_length=1, max_length=64, description="Words or phrases that must not occur; each is one rule."
    )
    starts_with: str | None = Field(
        None, min_length=1, max_length=1024, description="How the text begins, white space aside."
    )
    ends_with: str | None = Field(
        None, min_length=1, max_length=1024, description="How the text ends, white space aside."
    )
    letter_case: Literal["upper", "lower"] | None = Field(
        None, description="All letters are capitals, or none is; there must be letters."
    )
    no_commas: Literal[True] | None = Field(None, description="true: there is no comma.")
    json_only: Literal[True] | None = Field(
        None, alias="json", description="true: the whole text is a JSON document, in a Markdown code block or not."
    )
    title: Literal[True] | None = Field(None, description="true: there is a title in double angle brackets: <<so>>.")
    from_rows: bool = Field(
        False,
        description="Also follow the instructions of each row: a list of IFEval's names and a list with the arguments of each.",
    )
    names_column: str = Field(
        "instruction_id_list",
        min_length=1,
        max_length=128,
        description='Column with the names, such as "length_constraints:number_words".',
    )
    arguments_column: str = Field(
        "kwargs", min_length=1, max_length=128, description="Column with the arguments of each; nulls are left out."
    )
    strictness: Literal["strict", "loose"] = Field(
        "strict",
        description="strict: the text as it is. loose: a rule also holds if it does without the first or last line, or without asterisks, as in IFEval.",
    )
    reward: Literal["share", "all"] = Field(
        "share", description="share: the share of the rules that hold. all: 1 if all hold, else 0."
    )
