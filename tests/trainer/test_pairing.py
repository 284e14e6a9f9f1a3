"""Pairs out of scored and labelled lists: which completions meet, how often, and what gives none."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.pairing import AllPairs, BestWorst, CorrectWrong, GapSampled, Pairing, SafeAndShorter
from plumbline_trainer.data.pairing.registry import PAIRINGS, make_pairs
from plumbline_trainer.data.rows import ListRow, PairRow


def scored(*scores: float, place: str = "train.jsonl:1") -> ListRow:
    return ListRow(place, "p", [f"text {index}" for index in range(len(scores))], list(scores))


def pairs(parameters: Pairing, *rows: ListRow, seed: int = 0) -> list[tuple[str, str]]:
    return [(row.chosen, row.rejected) for row in make_pairs(parameters, rows, seed).rows]


def test_every_pairing_is_implemented() -> None:
    assert PAIRINGS.missing() == []


def test_best_and_worst_make_one_pair_with_their_scores_and_a_place_of_its_own() -> None:
    assert make_pairs(BestWorst(), [scored(0.2, 0.9, 0.5)], 0).rows == [
        PairRow("train.jsonl:1 (completions 1 and 0)", "p", "text 1", "text 0", chosen_score=0.9, rejected_score=0.2)
    ]


def test_rows_without_a_pair_are_counted() -> None:
    made = make_pairs(BestWorst(min_gap=0.5), [scored(1, 1, 1), scored(0, 0.5), scored(0, 0.6)], 0)
    assert [row.chosen for row in made.rows] == ["text 1"]
    assert made.without_pair == 2, "equal scores, and a gap that does not exceed the least one"


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6))
def test_all_pairs_are_all_that_differ_and_the_higher_score_wins(scores: list[int]) -> None:
    row = scored(*map(float, scores))
    made = make_pairs(AllPairs(), [row], 0).rows
    expected = {
        (max(i, j, key=lambda k: scores[k]), min(i, j, key=lambda k: scores[k]))
        for i, j in combinations(range(len(scores)), 2)
        if scores[i] != scores[j]
    }
    assert {(pair.chosen, pair.rejected) for pair in made} == {
        (f"text {won}", f"text {lost}") for won, lost in expected
    }
    assert len(made) == len(expected)
    assert all((pair.chosen_score or 0.0) > (pair.rejected_score or 0.0) for pair in made)


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_pairs_are_drawn_as_often_as_the_power_of_their_gap(power: float) -> None:
    draws = 4096
    row = scored(0.0, 1.0, 3.0)
    found = Counter(pairs(GapSampled(power=power, pairs_per_prompt=draws), row))
    weights = {("text 1", "text 0"): 1.0, ("text 2", "text 0"): 3.0**power, ("text 2", "text 1"): 2.0**power}
    for pair, weight in weights.items():
        share = weight / sum(weights.values())
        # four standard deviations of a binomial share
        assert found[pair] / draws == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5)


def test_the_largest_gaps_that_a_row_may_have_are_finite() -> None:
    row = scored(-1e18, 0.0, 1e18)
    assert set(pairs(GapSampled(power=16, pairs_per_prompt=50), row)) <= {
        ("text 2", "text 0"),
        ("text 1", "text 0"),
    } | {("text 2", "text 1")}


@given(st.lists(st.sampled_from([0.0, 0.4, 0.5, 1.0]), min_size=2, max_size=8), st.integers(0, 3))
def test_pairs_are_always_correct_with_wrong(scores: list[float], seed: int) -> None:
    row = scored(*scores)
    made = make_pairs(CorrectWrong(pairs_per_prompt=4), [row], seed)
    correct = sum(score >= 0.5 for score in scores)
    assert len(made.rows) == min(4, correct * (len(scores) - correct))
    assert made.without_pair == int(correct in (0, len(scores))), "all right or all wrong: dropped and counted"
    for pair in made.rows:
        assert pair.chosen_score is not None
        assert pair.rejected_score is not None
        assert pair.chosen_score >= 0.5 > pair.rejected_score
    assert len({(pair.chosen, pair.rejected) for pair in made.rows}) == len(made.rows), "without replacement"


def test_safe_beats_unsafe_and_of_two_safe_ones_the_shorter_wins() -> None:
    row = ListRow("f:1", "p", ["a b c d", "a b", "a", "x y z"], None, [True, True, False, False])
    parameters = SafeAndShorter(min_length_ratio=2.0, pairs_per_prompt=100)
    found = pairs(parameters, row)
    assert Counter(found) == Counter(
        [("a b c d", "a"), ("a b c d", "x y z"), ("a b", "a"), ("a b", "x y z"), ("a b", "a b c d")]
    )
    assert ("a b", "a b c d") not in pairs(SafeAndShorter(min_length_ratio=2.5, pairs_per_prompt=100), row)
    assert all(pair.chosen_score is None for pair in make_pairs(parameters, [row], 0).rows)


def test_only_unsafe_completions_make_no_pair() -> None:
    row = ListRow("f:1", "p", ["a", "b c d e"], None, [False, False])
    assert make_pairs(SafeAndShorter(), [row], 0).without_pair == 1


@pytest.mark.parametrize("parameters", [BestWorst(), AllPairs(), GapSampled(), CorrectWrong()])
def test_equal_texts_are_never_paired(parameters: Any) -> None:
    row = ListRow("f:1", "p", ["same", "same"], [0.0, 1.0])
    assert make_pairs(parameters, [row], 0).rows == []


@pytest.mark.parametrize("parameters", [GapSampled(pairs_per_prompt=3), CorrectWrong(pairs_per_prompt=3)])
def test_draws_follow_from_the_seed_and_the_row_s_index_alone(parameters: Any) -> None:
    rows = [scored(*[k / 10 for k in range(10)], place=f"f:{n}") for n in range(20)]
    once, again = (make_pairs(parameters, rows, 7).rows for _ in range(2))
    assert once == again
    assert once != make_pairs(parameters, rows, 8).rows
    assert make_pairs(parameters, rows[:5], 7).rows == once[:15], "what follows a row does not change its pairs"
    assert {pair.chosen for pair in once[:3]} != {pair.chosen for pair in once[3:6]} or once[:3] != once[3:6]
