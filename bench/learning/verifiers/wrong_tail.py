"""Counts the dots behind a wrong answer; with the share of right answers this gives the mean tail of wrong ones."""

from __future__ import annotations

from typing import Any


def verify(prompt: Any, completion: str, answer: str | None, row: dict[str, Any]) -> float:
    """The number of dots at the end of a completion whose text before them is not the answer."""
    text = completion.rstrip(".")
    return 0.0 if text == answer else float(len(completion) - len(text))
