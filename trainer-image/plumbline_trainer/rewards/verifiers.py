"""Verifiers: from a completion to a number. Each is built once from its parameters and then called once a completion.

This module runs inside the worker processes of `pool`. It and what it imports must load fast: no torch, and
math-verify only where a job asks for it. A verifier raises where it cannot judge; it never answers 0 instead.
"""

from __future__ import annotations

import logging
import math
import numbers
import re
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.methods.verifiers.mathematics import Math, Numeric
from plumbline_api.methods.verifiers.python import PythonFunction
from plumbline_api.methods.verifiers.text import ExactMatch, Regex
from plumbline_trainer.registry import Registry

Verify = Callable[[Any, str, str | None, Mapping[str, Any]], Any]
"""verify(prompt, completion, answer, row) -> number. `prompt` is as in the data: text or a list of messages."""

Build = Callable[[Any, Path | None], Verify]
"""(parameters, file with the user's code) -> verify."""

VERIFIERS: Registry[Build] = Registry(Verifier)

_NUMBER = re.compile(
    r"(?:(?<![\w.)\]])[-+])?"  # a sign, but not the minus of 10-7
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d+)?"
)


def build_verifier(parameters: Verifier, code: Path | None = None) -> Verify:
    """The function that scores completions. Raises whatever the user's code raises when it is loaded."""
    return VERIFIERS.of(parameters)(parameters, code)


def checked_reward(value: Any) -> float:
    """What a verifier returned, as a float. Raises `TypeError` if it is no number, `ValueError` if it is not finite."""
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, numbers.Real):
        raise TypeError(f"returned {_shown(value)}, which is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"returned {number}, which is not finite")
    return number


@VERIFIERS.implements(ExactMatch)
def exact_match(parameters: ExactMatch, code: Path | None) -> Verify:
    """Compares text with text."""
    extract = re.compile(parameters.extract, re.DOTALL) if parameters.extract else None

    def normalized(text: str) -> str:
        text = text.strip() if parameters.strip else text
        return text.casefold() if parameters.ignore_case else text

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        expected = normalized(_required(answer))
        if extract is None:
            return float(normalized(completion) == expected)
        matches = list(extract.finditer(completion))
        if not matches:
            return 0.0
        found = matches[-1].group(1 if extract.groups else 0)
        return float(found is not None and normalized(found) == expected)

    return verify


@VERIFIERS.implements(Numeric)
def numeric(parameters: Numeric, code: Path | None) -> Verify:
    """Compares the completion's last number. Numbers may have a sign, thousands' commas, a fraction and an exponent."""
    absolute, relative = Decimal(str(parameters.absolute_tolerance)), Decimal(str(parameters.relative_tolerance))

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        text = _required(answer).strip()
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"the row's answer {_shown(answer)} is not a number")
        expected = _decimal(text)
        matches = _NUMBER.findall(completion)
        if not matches:
            return 0.0
        found = _decimal(matches[-1])
        return float(abs(found - expected) <= max(absolute, relative * abs(expected)))

    return verify


@VERIFIERS.implements(Math)
def mathematics(parameters: Math, code: Path | None) -> Verify:
    """Compares expressions by math-verify, which parses LaTeX and plain formulas into sympy.

    Its own time limits are switched off: they rest on SIGALRM, which works in main threads only and cannot interrupt
    sympy's C extensions; the pool ends the whole process instead. For the same reason its errors are raised, so that
    an unreadable answer is an error and not a wrong completion. A completion that holds nothing readable is wrong.
    """
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    import math_verify

    def parsed(text: str) -> list[Any]:
        return math_verify.parse(text, parsing_timeout=None)

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        text = _required(answer)
        # without delimiters a formula is searched for as in prose, where x + 1 reads as 1
        expected = parsed(text if "$" in text or "\\boxed" in text else f"${text}$")
        if not expected:
            raise ValueError(f"the row's answer {_shown(answer)} holds no mathematical expression")
        found = parsed(completion)
        return float(bool(found) and math_verify.verify(expected, found, timeout_seconds=None, raise_on_error=True))

    return verify


@VERIFIERS.implements(Regex)
def regex(parameters: Regex, code: Path | None) -> Verify:
    """Checks the form of a completion; `.` matches line breaks too."""
    pattern = re.compile(parameters.pattern, re.DOTALL)
    matches = pattern.fullmatch if parameters.mode == "fullMatch" else pattern.search

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        return float(matches(completion) is not None)

    return verify


@VERIFIERS.implements(PythonFunction)
def python_function(parameters: PythonFunction, code: Path | None) -> Verify:
    """Loads the user's file as a module of its own and returns its function."""
    if code is None:
        raise FileNotFoundError("no file with the code is configured")
    name = re.sub(r"\W", "_", str(code))
    loader = SourceFileLoader(name, str(code))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(code)))
    module.__file__ = str(code)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    loader.exec_module(module)
    function: Verify | None = getattr(module, parameters.function, None)
    if not callable(function):
        raise AttributeError(f"{code.name} defines no function {parameters.function!r}")
    return function


def _required(answer: str | None) -> str:
    if answer is None:
        raise ValueError("the row has no answer")
    return answer


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
