"""Texts without part of their key content, in degrees.

Self-supervised preference optimization (Li et al. 2024, arXiv:2409.17791) teaches the model how much a completion lost
when its key content is removed to different extents. Key content is found as in RAKE (Rose et al. 2010, "Automatic
Keyword Extraction from Individual Documents"): function words and punctuation cut a text into phrases; a word scores
degree(w) / frequency(w), where its degree is the number of words in all phrases that it occurs in; a phrase scores the
sum of its words.

The rule of removal is ours. Of K different phrases, degree `level` of `levels` takes away the ceil(level K / levels)
that score highest, wherever they occur. A text never loses its last word: the phrase with the lowest score then stays.
Texts of fewer phrases than levels are therefore equal at some neighbouring degrees, and one without phrases at all.
Function words are English; in another language everything between two punctuation marks is one phrase.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from functools import lru_cache
from itertools import pairwise

from plumbline_trainer.data.seeds import derive_seed

Phrase = tuple[str, ...]
"""Words in lower case."""

_WORD = re.compile(r"[^\W_]+(?:['’.,-][^\W_]+)*")
_FUNCTION_WORDS = frozenset(
    """
    a about above after again against all almost also although always am among an and another any are around as at
    be because been before being below between both but by can cannot could did do does doing done down during each
    either else enough even ever every few for from further get gets had has have having he hence her here hers
    herself him himself his how however i if in indeed instead into is it its itself just least less let like
    many may me might mine more most much must my myself neither never no nor not now of off often on once one only or
    other others our ours ourselves out over own per perhaps quite rather same shall she should since so some still
    such than that the their theirs them themselves then there therefore these they this those though through thus to
    together too toward towards under until up upon us very was we well were what when where whether which while who
    whom whose why will with within without would yes yet you your yours yourself yourselves
    aren't can't couldn't didn't doesn't don't hadn't hasn't haven't he's i'd i'll i'm i've isn't it's let's shouldn't
    that's there's they're wasn't we're weren't what's won't wouldn't you're
    """.split()  # noqa: SIM905  (a list of strings could not be read)
)


def degraded(text: str, level: int, levels: int, seed: int) -> str:
    """`text` without the key content that degree `level` (0 to `levels` - 1) takes away; degree 0 takes nothing.

    A pure function: `seed` decides between phrases of equal score. White space before what is removed goes with it.
    Raises `ValueError` for a degree that does not exist.
    """
    if not 0 <= level < levels:
        raise ValueError(f"level {level} is not one of {levels}")
    if level == 0:
        return text
    spans = _phrase_spans(text)
    ranked = _by_score(spans, seed)
    count = -(-level * len(ranked) // levels)
    result = _without(text, spans, ranked[:count])
    if count and not _WORD.search(result):
        result = _without(text, spans, ranked[: count - 1])
    return result


def key_phrases(text: str) -> dict[Phrase, float]:
    """The phrases of a text and their scores, in the order in which they first occur."""
    return _scores([phrase for phrase, _, _ in _phrase_spans(text)])


@lru_cache(maxsize=4096)
def _phrase_spans(text: str) -> tuple[tuple[Phrase, int, int], ...]:
    """(phrase, start, end) of every maximal run of words that are no function words, with only blanks between."""
    words = [match for match in _WORD.finditer(text) if _lower(match) not in _FUNCTION_WORDS]
    if not words:
        return ()
    runs = [[words[0]]]
    for before, word in pairwise(words):
        if text[before.end() : word.start()].strip(" \t"):
            runs.append([])
        runs[-1].append(word)
    return tuple((tuple(map(_lower, run)), run[0].start(), run[-1].end()) for run in runs)


def _lower(match: re.Match[str]) -> str:
    return match[0].lower().replace("’", "'")


def _scores(phrases: list[Phrase]) -> dict[Phrase, float]:
    frequency: dict[str, int] = defaultdict(int)
    degree: dict[str, int] = defaultdict(int)
    for phrase in phrases:
        for word in phrase:
            frequency[word] += 1
            degree[word] += len(phrase)
    return {phrase: sum(degree[word] / frequency[word] for word in phrase) for phrase in phrases}


def _by_score(spans: tuple[tuple[Phrase, int, int], ...], seed: int) -> list[Phrase]:
    scores = _scores([phrase for phrase, _, _ in spans])
    phrases = list(scores)
    random.Random(derive_seed(seed, "degradation")).shuffle(phrases)
    return sorted(phrases, key=lambda phrase: -scores[phrase])


def _without(text: str, spans: tuple[tuple[Phrase, int, int], ...], removed: list[Phrase]) -> str:
    gone = set(removed)
    parts, position = [], 0
    for phrase, start, end in spans:
        if phrase in gone:
            parts.append(text[position:start].rstrip(" \t"))
            position = end
    parts.append(text[position:])
    result = "".join(parts)
    return result if text[:1].isspace() else result.lstrip(" \t")
