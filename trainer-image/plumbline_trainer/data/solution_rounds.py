"""The solutions that a text goes through before it ends: where each stops, what it answers, which repeat others.

A solution reaches from the end of one answer to the end of the next; what follows the last answer belongs to the last
solution. Places are characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation


@dataclass(frozen=True)
class SolutionRound:
    """One solution within a text."""

    start: int
    end: int
    answer: str | None
    """None for a text without any answer, which is one round."""


def solution_rounds(text: str, pattern: str) -> list[SolutionRound]:
    """The solutions of a text in order, ended by the matches of `pattern`; together they are the text."""
    found = list(answers(text, pattern))
    if not found:
        return [SolutionRound(0, len(text), None)]
    starts = [0, *(stop for stop, _ in found[:-1])]
    ends = [*starts[1:], len(text)]
    return [SolutionRound(start, end, value) for start, end, (_, value) in zip(starts, ends, found, strict=True)]


def answers(text: str, pattern: str) -> Iterator[tuple[int, str]]:
    """The answers in a text: where each match ends, and its first group or else the whole match."""
    for match in re.finditer(pattern, text):
        if match.end() > match.start():
            yield match.end(), match.group(1 if match.re.groups else 0) or ""


def same(found: str, answer: str) -> bool:
    """Whether two answers are equal, as text or as decimal numbers; commas and white space do not count."""
    found, answer = ("".join(value.replace(",", "").split()) for value in (found, answer))
    if found == answer:
        return True
    try:
        return Decimal(found) == Decimal(answer)
    except InvalidOperation:
        return False


def differing(parts: Sequence[str], similarity: float) -> list[bool]:
    """Which parts of a text share fewer than `similarity` of their words (Jaccard index) with each differing one
    before; the first always does."""
    known: list[frozenset[str]] = []
    found = []
    for part in parts:
        words = frozenset(re.findall(r"\w+", part.lower()))
        found.append(all(_jaccard(words, before) < similarity for before in known))
        if found[-1]:
            known.append(words)
    return found


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    union = len(first | second)
    return len(first & second) / union if union else 1.0
