"""Integers, fractions, decimals and percentages as exact numbers, and whether two of them are the same.

Most answers of mathematical data are such numbers, and a computer algebra system takes milliseconds for what takes
microseconds here. What is not certain is left undecided (`None`), so that the slow path keeps the last word: a text
with two numbers, an expression, decimals that differ in the last places only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = r"\d{1,3}(?:,\d{3})+|\d+"
_NUMBER = re.compile(
    rf"(?P<sign>-)?(?:\\[dt]?frac\{{(?P<top>\d+)\}}\{{(?P<bottom>\d+)\}}"
    rf"|(?P<numerator>\d+)/(?P<denominator>\d+)"
    rf"|(?P<integer>{_DIGITS})(?P<decimals>\.\d+)?(?P<percent>\\?%)?)"
)
_BOXED = re.compile(r"\\boxed\{((?:[^{}\\]|\\[dt]?frac\{\d+\}\{\d+\}|\\%)*)\}")
_OPERATORS = re.compile(r"[-+*×/^()÷=%$\\\d]|percent|pct", re.IGNORECASE)
"""What in a sentence may make more of its number than the number says."""

_CERTAIN_DIGITS = 15
"""Decimals with more digits than that are rounded by binary arithmetic, which is not imitated here."""

_CERTAIN_DIFFERENCE = Fraction(2, 10**6)
"""math-verify rounds decimals to six places; numbers that are further apart than this differ by any rounding."""


@dataclass(frozen=True)
class PlainNumber:
    """A number as it was written."""

    value: Fraction
    """Exact; of a percentage the number before the sign."""

    decimal: bool = False
    """Whether it has a decimal point."""

    percent: bool = False
    digits: int = 0
    """Digits that were written."""


def read_number(text: str) -> PlainNumber | None:
    """The number that `text` is, white space aside; None where it is anything else."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    sign = -1 if match["sign"] else 1
    top, bottom = match["top"] or match["numerator"], match["bottom"] or match["denominator"]
    if top is not None:
        return PlainNumber(sign * Fraction(int(top), int(bottom)), digits=len(top)) if int(bottom) else None
    written = match["integer"].replace(",", "") + (match["decimals"] or "")
    return PlainNumber(
        sign * Fraction(written),
        decimal=match["decimals"] is not None,
        percent=match["percent"] is not None,
        digits=len(written.replace(".", "").lstrip("0")),
    )


def read_answer(text: str) -> PlainNumber | None:
    """The number that a row's answer is, also between dollar signs or in a box."""
    text = text.strip()
    boxed = _BOXED.fullmatch(text.strip("$"))
    return read_number(boxed[1] if boxed else text.strip("$"))


def read_completion(text: str) -> PlainNumber | None:
    """The number that a completion gives as its answer, where there is no doubt.

    That is the content of its only box, the whole text, or the only number of a text without any mathematical signs.
    """
    if "\\boxed" in text:
        if text.count("\\boxed") != 1 or "final answer" in text.lower():
            return None
        boxed = _BOXED.search(text)
        return read_number(boxed[1]) if boxed and "}" not in text[boxed.end() :] else None
    whole = text.strip()
    if whole.startswith("$") and whole.endswith("$") and len(whole) > 2:
        return read_number(whole[1:-1])
    words = [word for word in whole.split() if any(character.isdigit() for character in word)]
    if len(words) != 1:
        return None
    [word] = words
    before, _, after = whole.partition(word)
    if "\\" in word or _OPERATORS.search(before + after):
        return None  # LaTeX without delimiters is read as prose
    return read_number(word.rstrip(".") if word[-1] == "." else word)


def same_number(a: PlainNumber, b: PlainNumber) -> bool | None:
    """Whether two numbers are equal; None where only a matter of rounding or of reading tells."""
    if a.percent != b.percent:
        share, other = (a, b) if a.percent else (b, a)
        if share.value == other.value:
            return None  # 9% and 9: the same for some, a factor of a hundred for others
        a, b = PlainNumber(share.value / 100, True, False, share.digits), other
    if a.value == b.value:
        return True
    if not (a.decimal or b.decimal):
        return False
    certain = max(a.digits, b.digits) <= _CERTAIN_DIGITS and abs(a.value - b.value) > _CERTAIN_DIFFERENCE
    return False if certain else None
