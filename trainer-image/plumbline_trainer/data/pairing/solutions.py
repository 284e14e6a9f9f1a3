"""Pairs against overthinking: a right trace cut short against the longest right one.

Chen et al. 2024, arXiv:2412.21187, sec. 3: wrong samples are discarded, the longest is rejected, and what is chosen is
simplified. Of the simplified traces of one prompt we take the shortest.
"""

from __future__ import annotations

import random

from plumbline_api.methods.pairing import SolutionRounds
from plumbline_trainer.data.pairing.registry import PAIRINGS
from plumbline_trainer.data.rows import ListRow, PairRow
from plumbline_trainer.data.solution_rounds import SolutionRound, differing, same, solution_rounds


@PAIRINGS.implements(SolutionRounds)
def shortened_against_longest(parameters: SolutionRounds, row: ListRow, generator: random.Random) -> list[PairRow]:
    """At most one pair; of texts of equal length the first in the row's order. Length is counted in characters."""
    if row.scores is None:
        raise ValueError(f"{row.place}: the completions have no scores")
    right = [index for index, score in enumerate(row.scores) if score >= parameters.threshold]
    short = {index: simplified(parameters, row.completions[index]) for index in right}
    candidates = [(len(text), index) for index, text in short.items() if text is not None]
    if not candidates:
        return []
    _, winner = min(candidates)
    loser = max(right, key=lambda index: len(row.completions[index]))
    chosen, rejected = short[winner], row.completions[loser]
    if chosen is None or len(rejected) <= parameters.min_length_ratio * len(chosen):
        return []
    place = f"{row.place} (completion {winner} shortened and {loser})"
    return [PairRow(place, row.prompt, chosen, rejected)]


def simplified(parameters: SolutionRounds, trace: str) -> str | None:
    """A right trace with fewer solutions, as `parameters.chosen` says; None where the answer is in none of them.

    The answer is the last one of the whole trace. What follows the end of thinking stays.
    """
    if parameters.chosen == "shortest":
        return trace
    end = trace.find(parameters.end_of_thinking) if parameters.end_of_thinking else -1
    thinking, rest = (trace, "") if end < 0 else (trace[:end], trace[end:])
    rounds = solution_rounds(thinking, parameters.pattern)
    answer = solution_rounds(rest, parameters.pattern)[-1].answer or rounds[-1].answer
    if answer is None:
        return None
    right = [index for index, one in enumerate(rounds) if one.answer is not None and same(one.answer, answer)]
    if not right:
        return None
    if parameters.chosen == "greedyDiverse":
        return "".join(thinking[one.start : one.end] for one in _diverse(parameters, thinking, rounds, right)) + rest
    solutions = 2 if parameters.chosen == "firstCorrectWithReflection" else 1
    return thinking[: rounds[right[:solutions][-1]].end] + rest


def _diverse(
    parameters: SolutionRounds, thinking: str, rounds: list[SolutionRound], right: list[int]
) -> list[SolutionRound]:
    """The solutions that differ from all kept before, up to the last right one of them; the first right one is kept."""
    kept = differing([thinking[one.start : one.end] for one in rounds], parameters.similarity)
    kept[right[0]] = True
    last = max(index for index in right if kept[index])
    return [one for one, keep in zip(rounds[: last + 1], kept, strict=False) if keep]
