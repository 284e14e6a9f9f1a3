"""Verifiers of numbers and formulas."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from plumbline_api.methods.verifiers.mathematics import Math, Numeric
from plumbline_trainer.rewards.verifiers.plain_numbers import read_answer, read_completion, same_number
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify, required_answer, shown

_NUMBER = re.compile(
    r"(?:(?<![\w.)\]])[-+])?"  # a sign, but not the minus of 10-7
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d+)?"
)


@VERIFIERS.implements(Numeric)
def numeric(parameters: Numeric, code: Path | None) -> Verify:
    """Compares the completion's last number. Numbers may have a sign, thousands' commas, a fraction and an exponent.

    With x the number, a the answer and t = max(absoluteTolerance, relativeTolerance |a|), the excess is
    e = max(0, |x - a| - t). `exact` gives 1 where e = 0, else 0. `fuzzy` gives max(0, 1 - e / s) with
    s = max(|a|, leastScale), and 0 for e > 0 where s = 0: 1 exactly where `exact` does, decreasing in the relative
    error, 0 from an error as large as the answer. The paper (CrowdVLM-R1) asks for a reward that grows as the count
    comes nearer; this is the linear function of the relative error with these two ends, shifted by the tolerance so
    that it has no jump.
    """
    absolute, relative = Decimal(str(parameters.absolute_tolerance)), Decimal(str(parameters.relative_tolerance))
    least_scale = Decimal(str(parameters.least_scale))

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        text = required_answer(answer).strip()
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"the row's answer {shown(answer)} is not a number")
        expected = _decimal(text)
        matches = _NUMBER.findall(completion)
        if not matches:
            return 0.0
        excess = abs(_decimal(matches[-1]) - expected) - max(absolute, relative * abs(expected))
        if excess <= 0:
            return 1.0
        scale = max(abs(expected), least_scale)
        if parameters.shape == "exact" or excess >= scale:
            return 0.0
        return float(1 - excess / scale)

    return verify


@VERIFIERS.implements(Math)
def mathematics(parameters: Math, code: Path | None) -> Verify:
    """Compares plain numbers exactly, and everything else by math-verify, which parses LaTeX and formulas into sympy.

    math-verify's own time limits are switched off: they rest on SIGALRM, which works in main threads only and cannot
    interrupt sympy's C extensions; the pool ends the whole process instead. For the same reason its errors are raised,
    so that an unreadable answer is an error and not a wrong completion. A completion that holds nothing readable is
    wrong.
    """
    _math_verify()  # the time to load it is the component's and not that of its first call

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        text = required_answer(answer)
        expected, found = read_answer(text), read_completion(completion)
        if expected is not None and found is not None:
            same = same_number(expected, found)
            if same is not None:
                return float(same)
        return float(equal_by_algebra(text, completion))

    return verify


def equal_by_algebra(answer: str, completion: str) -> bool:
    """Whether math-verify finds the answer in the completion. Raises `ValueError` for an answer without expression."""
    # without delimiters a formula is searched for as in prose, where x + 1 reads as 1
    expected = _parsed(answer if "$" in answer or "\\boxed" in answer else f"${answer}$")
    if not expected:
        raise ValueError(f"the row's answer {shown(answer)} holds no mathematical expression")
    found = _parsed(completion)
    return bool(found) and _math_verify().verify(expected, found, timeout_seconds=None, raise_on_error=True)


def _parsed(text: str) -> list[Any]:
    found: list[Any] = _math_verify().parse(text, parsing_timeout=None)
    return found


@cache
def _math_verify() -> ModuleType:
    """Loads math-verify, and sympy with it: only for components that ask for it."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    import math_verify

    return math_verify


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))
