"""A vocabulary of made-up words, each of them one token of a byte-level BPE tokenizer.

A word is a space and two syllables of a consonant and a vowel, so its merges are the same in every text: letters to
syllables, the space to the first syllable, syllables to the word. `transformers` gives every Qwen2 model a byte-level
BPE tokenizer, whatever its directory says, so simpler kinds of tokenizers are no choice.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

PAD, EOS = SPECIAL_TOKENS = ("<pad>", "<eos>")
SPACE = "Ġ"
"""How byte-level BPE writes a space."""

CONSONANTS = "bcdfghjklmnpqrstvwxyzBCDFGHJKLMNPQRSTVWXYZ"
VOWELS = "aeiou"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens with their ids, and the merges that make them, in order."""

    tokens: dict[str, int]
    merges: list[tuple[str, str]]
    words: list[str]
    """The tokens that are words; in texts their first character is a space."""


def make_vocabulary(size: int) -> Vocabulary:
    """A vocabulary of exactly `size` tokens. Raises `ValueError` where there are not enough syllables, or no room."""
    letters = [*SPECIAL_TOKENS, SPACE, *CONSONANTS, *VOWELS]
    every = [consonant + vowel for consonant, vowel in itertools.product(CONSONANTS, VOWELS)]
    for count in range(1, len(every) + 1):
        wanted = size - len(letters) - 2 * count
        if 0 < wanted <= count * count:
            break
    else:
        raise ValueError(f"no vocabulary of {size} tokens can be made")
    syllables = every[:count]
    first = [SPACE + syllable for syllable in syllables]
    pairs = list(itertools.islice(itertools.product(first, syllables), wanted))
    words = [head + tail for head, tail in pairs]
    merges = [
        *((syllable[0], syllable[1]) for syllable in syllables),
        *((SPACE, syllable) for syllable in syllables),
        *pairs,
    ]
    tokens = {token: index for index, token in enumerate([*letters, *syllables, *first, *words])}
    return Vocabulary(tokens, merges, words)
