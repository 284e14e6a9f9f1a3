"""Length instructions: who wins under which limit, which limits are drawn, what the prompt becomes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.preference_data import LengthInstruction
from plumbline_trainer.data.augmentation import draw_limit, instruct, instruct_lengths, outcome, words
from plumbline_trainer.data.rows import PairRow

TEXT = "At most {limit} words."
LONG, SHORT = "one two three four five", "one two"


def pair(chosen: str = LONG, rejected: str = SHORT, **fields: Any) -> PairRow:
    return PairRow("f:1", fields.pop("prompt", "q"), chosen, rejected, **fields)


@pytest.mark.parametrize(
    ("winner", "loser", "limit", "expected"),
    [
        (2, 5, 5, "kept"),
        (5, 2, 5, "kept"),
        (2, 5, 3, "kept"),
        (5, 2, 4, "turned"),
        (5, 2, 2, "turned"),
        (5, 2, 1, "undecided"),
        (2, 5, 1, "undecided"),
    ],
    ids=[
        "both-under",
        "both-under-limit-reached",
        "loser-over",
        "winner-over",
        "winner-over-limit-reached",
        "both-over",
        "both-over-2",
    ],
)
def test_the_truth_table(winner: int, loser: int, limit: int, expected: str) -> None:
    assert outcome(winner, loser, limit) == expected


def test_a_pair_whose_winner_breaks_the_limit_is_turned_round_and_loses_its_scores() -> None:
    turned = instruct(pair(chosen_score=0.9, rejected_score=0.1), 3, TEXT)
    assert turned == PairRow("f:1", "At most 3 words.\n\nq", SHORT, LONG)
    kept = instruct(pair(chosen_score=0.9, rejected_score=0.1), 5, TEXT)
    assert kept == PairRow("f:1", "At most 5 words.\n\nq", LONG, SHORT, chosen_score=0.9, rejected_score=0.1)
    assert instruct(pair(), 1, TEXT) is None, "nobody keeps it"


def test_in_a_conversation_the_last_message_of_the_user_gets_the_instruction() -> None:
    prompt = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "system", "content": "d"},
    ]
    changed = instruct(pair(prompt=prompt), 5, TEXT)
    assert changed is not None
    assert changed.prompt == [*prompt[:2], {"role": "user", "content": "At most 5 words.\n\nc"}, prompt[3]]
    assert prompt[2]["content"] == "c", "the row that was read stays as it is"
    assert instruct(pair(prompt=prompt[3:]), 5, TEXT) is None


@pytest.mark.parametrize("fields", [{"prefix": "so "}, {"final": False}])
def test_steps_get_no_instruction(fields: dict[str, Any]) -> None:
    assert instruct(pair(**fields), 5, TEXT) is None


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 10))
def test_no_limit_is_drawn_that_nobody_keeps(first: int, second: int, seed: int) -> None:
    for deciding in (0.0, 1.0):
        limit = draw_limit(first, second, deciding, random.Random(seed))
        assert limit >= 1
        assert outcome(first, second, limit) != "undecided"
        if deciding == 0.0:
            assert limit >= max(first, second)
        elif max(min(first, second), 1) < max(first, second):
            assert min(first, second) <= limit < max(first, second)


def test_the_shares_are_those_of_the_spec() -> None:
    rows = [pair() if index % 2 else pair(SHORT, LONG) for index in range(4000)]
    parameters = LengthInstruction(share=0.5, deciding_share=0.25, text=TEXT)
    made = instruct_lengths(parameters, rows, seed=3)
    assert made.instructed / 4000 == pytest.approx(0.5, abs=0.04)
    assert made.turned / made.instructed == pytest.approx(0.25 / 2, abs=0.03), "half of them have a longer winner"
    changed = [row for row, before in zip(made.rows, rows, strict=True) if row != before]
    assert len(changed) == made.instructed
    for row in changed:
        limit = int(str(row.prompt).split()[2])
        assert words(row.chosen) <= limit, "whoever wins keeps the limit"
    assert made == instruct_lengths(parameters, rows, seed=3)
    assert made != instruct_lengths(parameters, rows, seed=4)


def test_the_default_text_has_the_limit_in_it() -> None:
    changed = instruct(pair(), 7, LengthInstruction().text)
    assert changed is not None
    assert changed.prompt == "Answer the following instruction using 7 words or less.\n\nq"
