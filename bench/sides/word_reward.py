"""The reward of the benchmark of rollouts, in the form that Plumbline's Python verifier takes."""

from __future__ import annotations

from typing import Any


def share_of_words_with_a(completion: str) -> float:
    """The share of words whose first vowel is an `a`, a fifth for uniformly drawn words; 0 for no words.

    It says nothing about the length, so that completions keep their lengths while the model learns.
    """
    words = [word for word in completion.split() if len(word) == 4]
    return sum(word[1] == "a" for word in words) / len(words) if words else 0.0


def verify(prompt: Any, completion: str, answer: str | None, row: dict[str, Any]) -> float:
    """See `share_of_words_with_a`."""
    return share_of_words_with_a(completion)
