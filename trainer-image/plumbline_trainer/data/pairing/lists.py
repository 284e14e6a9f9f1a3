"""Pairs of completions of one prompt that have scores, or labels of safety.

No method pairs equal texts: whatever their scores, such a pair states no preference.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import accumulate, combinations

from plumbline_api.methods.pairing import AllPairs, BestWorst, CorrectWrong, GapSampled, SafeAndShorter
from plumbline_trainer.data.pairing.registry import PAIRINGS
from plumbline_trainer.data.rows import ListRow, PairRow

Indices = tuple[int, int]
"""Positions of the preferred and of the other completion in their row."""


@PAIRINGS.implements(BestWorst)
def best_worst(parameters: BestWorst, row: ListRow, generator: random.Random) -> list[PairRow]:
    """The pair with the widest gap; of equally wide ones the first in the row's order."""
    candidates = _ordered_by_score(row, parameters.min_gap)
    widest = max(candidates, key=lambda pair: _gap(row, pair), default=None)
    return [] if widest is None else [_scored(row, widest)]


@PAIRINGS.implements(AllPairs)
def all_pairs(parameters: AllPairs, row: ListRow, generator: random.Random) -> list[PairRow]:
    """Every two completions whose scores differ by more than `min_gap`."""
    return [_scored(row, pair) for pair in _ordered_by_score(row, parameters.min_gap)]


@PAIRINGS.implements(GapSampled)
def gap_sampled(parameters: GapSampled, row: ListRow, generator: random.Random) -> list[PairRow]:
    """`pairs_per_prompt` independent draws, pair (w, l) with probability (s_w - s_l)^power / sum over all pairs of it.

    The published method samples pairs by an increasing function of their scores; the cube of the gap, our default, is
    such a function. Gaps are taken relative to the widest one, which changes no probability and cannot overflow.
    """
    candidates = _ordered_by_score(row, 0.0)
    if not candidates:
        return []
    widest = max(_gap(row, pair) for pair in candidates)
    weights = list(accumulate((_gap(row, pair) / widest) ** parameters.power for pair in candidates))
    drawn = generator.choices(candidates, cum_weights=weights, k=parameters.pairs_per_prompt)
    return [_scored(row, pair) for pair in drawn]


@PAIRINGS.implements(CorrectWrong)
def correct_wrong(parameters: CorrectWrong, row: ListRow, generator: random.Random) -> list[PairRow]:
    """Completions with a score of at least `threshold` against the others (Pang et al. 2024, arXiv:2404.19733)."""
    scores = _scores(row)
    correct = [index for index, score in enumerate(scores) if score >= parameters.threshold]
    wrong = [index for index, score in enumerate(scores) if score < parameters.threshold]
    both = _different(row, ((right, other) for right in correct for other in wrong))
    return [_scored(row, pair) for pair in _at_most(both, parameters.pairs_per_prompt, generator)]


@PAIRINGS.implements(SafeAndShorter)
def safe_and_shorter(parameters: SafeAndShorter, row: ListRow, generator: random.Random) -> list[PairRow]:
    """Safe against unsafe completions, and of two safe ones the shorter against one `min_length_ratio` times as long.

    Length is counted in words. Two unsafe completions make no pair: neither is to be learned. The paper trains with
    a preference for safe and short answers; that both kinds of pair are drawn from one pool is our choice.
    """
    if row.safe is None:
        raise ValueError(f"{row.place}: safety of the completions is not known")
    safe = [index for index, label in enumerate(row.safe) if label]
    unsafe = [index for index, label in enumerate(row.safe) if not label]
    words = [len(text.split()) for text in row.completions]
    by_safety = [(good, bad) for good in safe for bad in unsafe]
    by_length = [
        (short, long)
        for short in safe
        for long in safe
        if words[long] > words[short] and words[long] >= parameters.min_length_ratio * words[short]
    ]
    chosen = _at_most(_different(row, by_safety + by_length), parameters.pairs_per_prompt, generator)
    return [_pair(row, pair) for pair in chosen]


def _ordered_by_score(row: ListRow, min_gap: float) -> list[Indices]:
    """All pairs (w, l) with s_w - s_l > min_gap, in the order in which they stand in the row."""
    scores = _scores(row)
    ordered = (
        (first, second) if scores[first] > scores[second] else (second, first)
        for first, second in combinations(range(len(scores)), 2)
    )
    return [pair for pair in _different(row, ordered) if _gap(row, pair) > min_gap]


def _different(row: ListRow, pairs: Iterable[Indices]) -> list[Indices]:
    return [pair for pair in pairs if row.completions[pair[0]] != row.completions[pair[1]]]


def _at_most(pairs: list[Indices], count: int, generator: random.Random) -> list[Indices]:
    """All pairs, or `count` of them drawn without replacement; in the row's order."""
    return pairs if len(pairs) <= count else sorted(generator.sample(pairs, count))


def _scores(row: ListRow) -> list[float]:
    if row.scores is None:
        raise ValueError(f"{row.place}: the completions have no scores")
    return row.scores


def _gap(row: ListRow, pair: Indices) -> float:
    scores = _scores(row)
    return scores[pair[0]] - scores[pair[1]]


def _scored(row: ListRow, pair: Indices) -> PairRow:
    scores = _scores(row)
    return _pair(row, pair, scores[pair[0]], scores[pair[1]])


def _pair(row: ListRow, pair: Indices, chosen: float | None = None, rejected: float | None = None) -> PairRow:
    """The pair, whose place names both completions."""
    winner, loser = pair
    return PairRow(
        f"{row.place} (completions {winner} and {loser})",
        row.prompt,
        row.completions[winner],
        row.completions[loser],
        chosen_score=chosen,
        rejected_score=rejected,
    )
