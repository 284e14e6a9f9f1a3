"""Where the steps of a completion begin."""

from __future__ import annotations

import math

import pytest

from plumbline_trainer.advantages.steps import prefix_values, step_starts


def steps(pieces: list[str], separator: str = "\n", most: int = 100) -> list[str]:
    starts = step_starts(pieces, separator, most)
    return ["".join(pieces[a:b]) for a, b in zip(starts, [*starts[1:], len(pieces)], strict=True)]


def test_a_step_ends_with_the_token_that_holds_the_separator() -> None:
    assert steps(["a", " b", ".\n", "c", "\n", "d"]) == ["a b.\n", "c\n", "d"]


def test_a_separator_may_span_tokens() -> None:
    assert steps(["a", "\n", "\n", "b\n", "\nc", "d", "\n\n", "e"], "\n\n") == ["a\n\n", "b\n\nc", "d\n\n", "e"]


def test_blank_tokens_belong_to_the_step_before_and_a_blank_beginning_to_the_first() -> None:
    assert steps(["\n", "\n", "a\n", "\n", " ", "b\n", "\n"]) == ["\n\na\n\n ", "b\n\n"]


def test_separators_that_are_no_blanks() -> None:
    assert steps(["###", " one ", "###", " two"], "###") == ["### one ###", " two"]


def test_neighbours_are_merged_where_there_are_too_many() -> None:
    pieces = [f"{number}\n" for number in range(10)]
    assert step_starts(pieces, "\n", 4) == [0, 2, 5, 7]
    assert step_starts(pieces, "\n", 1) == [0]


@pytest.mark.parametrize(("pieces", "expected"), [([], []), (["a"], [0]), (["\n"], [0]), (["a\n"], [0])])
def test_short_completions(pieces: list[str], expected: list[int]) -> None:
    assert step_starts(pieces, "\n", 5) == expected


def test_means_stand_where_their_steps_begin() -> None:
    table = prefix_values([[0, 2], [0], []], [[0.5, math.nan], [1.0], []], 3)
    assert str(table.tolist()) == "[[0.5, nan, nan], [1.0, nan, nan], [nan, nan, nan]]"
    assert prefix_values([], [], 3).shape == (0, 3)
