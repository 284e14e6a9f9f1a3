"""Rows that are left out: duplicates by their text, and too short or too unlike lengths by their tokens."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plumbline_api.preference_data import Filters
from plumbline_trainer.data.batches import TokenSequence

EQUAL_TEXTS = "EqualTexts"
NO_PAIR = "NoPair"
DUPLICATE = "Duplicate"
SHORT_PROMPT = "ShortPrompt"
SHORT_COMPLETION = "ShortCompletion"
LENGTH_RATIO = "LengthRatio"
OVERLONG = "Overlong"

REASONS = {
    EQUAL_TEXTS: "their completions are equal",
    NO_PAIR: "no two of their completions make a pair",
    DUPLICATE: "an earlier row has the same prompt and completions",
    SHORT_PROMPT: "their prompt is shorter than data.filters.minPromptTokens",
    SHORT_COMPLETION: "a completion is shorter than data.filters.minCompletionTokens",
    LENGTH_RATIO: "the lengths of their completions differ more than data.filters.maxLengthRatio allows",
    OVERLONG: "they are too long",
}
"""Why rows are left out: the word in the status, and what a person reads."""

TRUNCATED = "Truncated"
LENGTH_INSTRUCTION = "LengthInstruction"
TURNED_ROUND = "TurnedRound"
"""How rows are changed, in the words of the status."""


@dataclass(frozen=True)
class Kept:
    """Rows that passed, their sequences, and how many of the others failed for which reason."""

    rows: list[Any]
    sequences: list[list[TokenSequence]]
    dropped: Counter[str]


def without_duplicates(rows: Sequence[Any]) -> tuple[list[Any], int]:
    """The rows without those whose content an earlier one has, and the number of those left out.

    The content is everything but place and scores: prompt, completions, and a label that tells what is wanted. A row
    with the same texts and another label is no duplicate but a contradiction, which is left to the objective.
    """
    seen: set[str] = set()
    kept = []
    for row in rows:
        content = _content(row)
        if content not in seen:
            seen.add(content)
            kept.append(row)
    return kept, len(rows) - len(kept)


def by_length(rows: Sequence[Any], sequences: Sequence[Sequence[TokenSequence]], filters: Filters) -> Kept:
    """Leaves out rows by the tokens of their prompt and completions; a row counts for the first reason that holds."""
    kept_rows, kept, dropped = [], [], Counter[str]()
    for row, items in zip(rows, sequences, strict=True):
        reason = _too_short_or_unlike(items, filters)
        if reason is None:
            kept_rows.append(row)
            kept.append(list(items))
        else:
            dropped[reason] += 1
    return Kept(kept_rows, kept, dropped)


def _content(row: Any) -> str:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name not in _NO_TEXT}
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


_NO_TEXT = frozenset({"place", "scores", "safe", "chosen_score", "rejected_score"})


def _too_short_or_unlike(items: Sequence[TokenSequence], filters: Filters) -> str | None:
    if filters.min_prompt_tokens is not None and len(items[0].prompt_ids) < filters.min_prompt_tokens:
        return SHORT_PROMPT
    lengths = [len(item.completion_ids) for item in items]
    if filters.min_completion_tokens is not None and min(lengths) < filters.min_completion_tokens:
        return SHORT_COMPLETION
    if filters.max_length_ratio is not None and max(lengths) > filters.max_length_ratio * min(lengths):
        return LENGTH_RATIO
    return None
