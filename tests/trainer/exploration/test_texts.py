"""Hints and solutions: where they come from and what a prompt becomes."""

import pytest

from plumbline_trainer.exploration import hinted, texts_of
from plumbline_trainer.failures import DataError

PLACES = ["train.jsonl:1", "train.jsonl:2", "train.jsonl:3"]


def test_rows_may_lack_a_text():
    columns = [{"hint": "Think of 7."}, {}, {"hint": " "}]
    assert texts_of("hint", columns, PLACES, "exploration.rescue.guidance") == ["Think of 7.", None, None]


def test_a_column_that_no_row_has_is_refused():
    with pytest.raises(
        DataError, match=r"no row has a text in the column hints, which exploration\.rescue\.gold reads"
    ):
        texts_of("hints", [{"hint": "x"}] * 3, PLACES, "exploration.rescue.gold")


def test_a_value_that_is_no_text_is_named():
    with pytest.raises(DataError, match=r"train.jsonl:2: hint must be text for .*, but it is a list"):
        texts_of("hint", [{"hint": "x"}, {"hint": ["y"]}, {}], PLACES, "exploration.rescue.guidance")


def test_a_text_prompt_is_put_into_the_template():
    assert hinted("2+3=", "count on", "{prompt}\n\nHint: {hint}") == "2+3=\n\nHint: count on"


def test_what_looks_like_a_place_in_prompt_or_hint_stays():
    assert hinted("a {hint} b", "{prompt} and {x}", "{hint}|{prompt}|{other}") == "{prompt} and {x}|a {hint} b|{other}"


def test_a_chat_gets_the_hint_in_its_last_message():
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+3?"}]
    assert hinted(chat, "count on", "{prompt} ({hint})") == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "2+3? (count on)"},
    ]
    assert chat[1]["content"] == "2+3?"
