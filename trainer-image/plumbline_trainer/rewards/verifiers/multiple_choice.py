"""The option that a completion chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from plumbline_api.methods.verifiers.text import MultipleChoice
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify, required_answer, required_column, shown

_DEFAULT_OPTIONS = 4

_MARKS = r"[\s*_`'\"$:]*"
_LETTER = r"(?:\\text\{)?\(?\[?([A-Za-z])\]?\)?\}?"
_ALONE = re.compile(rf"{_MARKS}(?:option\s+|choice\s+)?{_LETTER}{_MARKS}[.)]?{_MARKS}", re.IGNORECASE)
"""A text that is a letter and nothing else, whatever stands around it."""

_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANNOUNCEMENT = (
    r"(?i:\banswer|\b(?:correct|right|best|final)\s+(?:option|choice)|\bI\s+(?:choose|pick|select))"
    r"\s*(?i:is|are|would\s+be|should\s+be|must\s+be)?[\s:]*"
)
_ANNOUNCED = re.compile(
    _ANNOUNCEMENT + r"(?i:option|choice|letter)?[\s*_`'\"$:]*(?:\\text\{)?(?:\(([A-Za-z])\)|([A-Z])(?![\w'’]))"
)
_ANNOUNCED_TEXT = re.compile(_ANNOUNCEMENT + r"([^\n]+)")
_ANOTHER = re.compile(r"[\s*_`)}.\]]*(?i:or|and|/|,|&)\s*(?i:option|choice)?[\s*_`(]*([A-Z])(?![\w'’])")
"""A second letter after the first: whoever answers with two options has chosen neither."""

_LISTED = re.compile(r"(?<!\w)\(?([A-Z])[).:](?!\w)")
"""A letter as it stands before an item of a list: `C. because`, `(C) because`."""


@VERIFIERS.implements(MultipleChoice)
def multiple_choice(parameters: MultipleChoice, code: Path | None) -> Verify:
    """Compares the chosen option with the answer's; an answer that names no option is an error."""

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        if parameters.choices_column is None:
            texts: Sequence[str] = ()
            letters = ascii_uppercase[: parameters.options or _DEFAULT_OPTIONS]
        else:
            texts = _texts(required_column(row, parameters.choices_column), parameters.choices_column)
            letters = ascii_uppercase[: len(texts)]
        expected = _named(required_answer(answer), letters, texts)
        if expected is None:
            raise ValueError(f"the row's answer {shown(answer)} is none of the options {letters[0]} to {letters[-1]}")
        return float(chosen(completion, letters, texts) == expected)

    return verify


def chosen(completion: str, letters: str, texts: Sequence[str] = ()) -> str | None:
    """The letter that a completion chooses, by the most explicit way in which it says so; None where it does not.

    The ways, in this order: a box, answer tags, a completion that is one option, a phrase that announces the answer,
    the only letter with a parenthesis or full stop after it. Of several boxes, tags or phrases the last counts.
    """
    for pattern in (_BOXED, _TAGGED):
        if found := pattern.findall(completion):
            return _named(found[-1], letters, texts)
    if named := _named(completion, letters, texts):
        return named
    if announced := [match for match in _ANNOUNCED.finditer(completion) if _letter(match) in letters]:
        another = _ANOTHER.match(completion, announced[-1].end())
        return None if another and another[1] in letters else _letter(announced[-1])
    if texts and (written := _ANNOUNCED_TEXT.findall(completion)):
        return _named(written[-1], letters, texts)
    listed = {letter for letter in _LISTED.findall(completion) if letter in letters}
    return listed.pop() if len(listed) == 1 else None


def _letter(match: re.Match[str]) -> str:
    return (match[1] or match[2]).upper()


def _named(text: str, letters: str, texts: Sequence[str]) -> str | None:
    """The letter of the option that `text` is: by letter, by text, or by both (`C. Paris`)."""
    alone = _ALONE.fullmatch(text)
    if alone:
        letter = alone[1].upper()
        return letter if letter in letters else None
    plain = _plain(text)
    for letter, option in zip(letters, texts, strict=False):
        written = _plain(option)
        if plain == written or re.fullmatch(rf"\(?{letter}[.):]?\s*{re.escape(written)}", plain, re.IGNORECASE):
            return letter
    return None


def _plain(text: str) -> str:
    return " ".join(text.strip().rstrip(".").split()).casefold()


def _texts(value: Any, column: str) -> list[str]:
    if not isinstance(value, list) or not 2 <= len(value) <= len(ascii_uppercase):
        raise ValueError(f"the row's {column} must be a list of 2 to {len(ascii_uppercase)} options")
    return [str(option) for option in value]
