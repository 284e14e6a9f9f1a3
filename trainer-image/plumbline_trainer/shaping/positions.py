"""Which token writes which character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for bytes that are no character yet."""


def token_ends(decode: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> list[int]:
    """For each token how many characters the text has once it is written; never falling.

    `decode` makes the text of a list of tokens. It is asked for few tokens at a time, from one that ended a character
    on, together with those that ended the character before: a tokenizer may write the same token in another way at the
    beginning of a text. Tokens that end within a character, and special tokens that are not written, end where the
    token before them does.
    """
    ends: list[int] = []
    start, written, known = 0, 0, 0
    for count in range(1, len(tokens) + 1):
        before, now = decode(tokens[start:written]), decode(tokens[start:count])
        if len(now) > len(before) and not now.endswith(UNFINISHED):
            known += len(now) - len(before)
            start, written = written, count
        ends.append(known)
    return ends
