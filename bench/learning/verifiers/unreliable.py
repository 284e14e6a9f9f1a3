"""A verifier of sums that is wrong at known rates, always alike about the same text for the same prompt."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

FALSE_POSITIVE_RATE = 0.15
FALSE_NEGATIVE_RATE = 0.35


def verify(prompt: Any, completion: str, answer: str | None, row: dict[str, Any]) -> float:
    """1 for right and 0 for wrong, or the opposite at the rate of its kind."""
    right = completion.strip() == answer
    digest = blake2b(f"{prompt}\n{completion}".encode(), digest_size=8).digest()
    chance = int.from_bytes(digest, "big") / 2**64
    mistaken = chance < (FALSE_NEGATIVE_RATE if right else FALSE_POSITIVE_RATE)
    return float(right != mistaken)
