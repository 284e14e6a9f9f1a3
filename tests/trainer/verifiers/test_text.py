"""Verifiers of text: exact matches and patterns."""

import pytest

from plumbline_api.methods.verifiers.text import ExactMatch, Regex
from tests.trainer.verifiers.verifying import reward


@pytest.mark.parametrize(
    ("options", "completion", "answer", "expected"),
    [
        ({}, " 42\n", "42", 1),
        ({"strip": False}, " 42", "42", 0),
        ({}, "Paris", "paris", 0),
        ({"ignoreCase": True}, "PARIS", "paris", 1),
        ({"extract": r"<answer>(.*?)</answer>"}, "<answer>1</answer> no, <answer> 2 </answer>", "2", 1),
        ({"extract": r"<answer>(.*?)</answer>"}, "<answer>1</answer> no, <answer>2</answer>", "1", 0),
        ({"extract": r"<answer>(.*?)</answer>"}, "<answer>two\nlines</answer>", "two\nlines", 1),
        ({"extract": r"<answer>(.*?)</answer>"}, "2", "2", 0),
        ({"extract": r"\d+"}, "first 1 then 23", "23", 1),
        ({"extract": r"a(b)?"}, "a", "b", 0),
    ],
)
def test_exact_match(options, completion, answer, expected):
    assert reward(ExactMatch(**options), completion, answer) == expected


@pytest.mark.parametrize(
    ("options", "completion", "expected"),
    [
        ({"pattern": r"<a>.*</a>"}, "<a>one\ntwo</a>", 1),
        ({"pattern": r"<a>.*</a>"}, "x <a>one</a>", 0),
        ({"pattern": r"<a>.*</a>", "mode": "search"}, "x <a>one</a> y", 1),
    ],
)
def test_regex_looks_at_the_form_alone(options, completion, expected):
    assert reward(Regex(**options), completion) == expected
