"""Degraded copies: which phrases are key content, how many go at which degree, and what always stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.data.degradation import degraded, key_phrases

TEXT = "Compatibility of linear constraints over the set of natural numbers. Linear constraints and natural numbers."


def test_phrases_and_scores_are_those_of_the_published_rule() -> None:
    # degree / frequency of a word: compatibility 1/1, linear 4/2, constraints 4/2, set 1/1, natural 4/2, numbers 4/2
    assert key_phrases(TEXT) == {
        ("compatibility",): 1.0,
        ("linear", "constraints"): 4.0,
        ("set",): 1.0,
        ("natural", "numbers"): 4.0,
    }


def test_each_degree_takes_the_next_phrases_by_score_wherever_they_occur() -> None:
    one, two, three = (degraded(TEXT, level, 4, seed=0) for level in (1, 2, 3))
    assert one in (
        "Compatibility of over the set of natural numbers. and natural numbers.",
        "Compatibility of linear constraints over the set of. Linear constraints and.",
    )
    assert two == "Compatibility of over the set of. and."
    assert three in ("of over the set of. and.", "Compatibility of over the of. and.")
    assert degraded(TEXT, 0, 4, seed=0) == TEXT


def test_the_seed_decides_between_equal_scores_and_nothing_else_does() -> None:
    found = {degraded(TEXT, 1, 4, seed) for seed in range(20)}
    assert len(found) == 2
    assert {degraded(TEXT, 2, 4, seed) for seed in range(20)} == {degraded(TEXT, 2, 4, 0)}
    assert degraded(TEXT, 1, 4, 5) == degraded(TEXT, 1, 4, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("42", "42"), ("it is 42", "it is"), ("so it is", "so it is"), ("", ""), ("?!", "?!"), ("one\ntwo cats", "one")],
)
def test_short_texts(text: str, expected: str) -> None:
    assert degraded(text, 3, 4, seed=0).strip() == expected


@given(st.text(st.sampled_from("abc the of.,\n "), max_size=60), st.integers(2, 6), st.integers(0, 3))
def test_higher_degrees_never_keep_more_and_words_never_run_out(text: str, levels: int, seed: int) -> None:
    sizes = [len(degraded(text, level, levels, seed)) for level in range(levels)]
    assert sizes == sorted(sizes, reverse=True)
    if any(character.isalpha() for character in text):
        assert any(character.isalpha() for character in degraded(text, levels - 1, levels, seed))


@pytest.mark.parametrize("level", [-1, 4])
def test_a_degree_that_does_not_exist_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="is not one of 4"):
        degraded(TEXT, level, 4, seed=0)
