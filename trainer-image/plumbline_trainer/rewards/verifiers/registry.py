"""What a verifier is, and where each of them registers: from parameters to a function that scores one completion."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_trainer.registry import Registry

Verify = Callable[[Any, str, str | None, Mapping[str, Any]], Any]
"""verify(prompt, completion, answer, row) -> number. `prompt` is as in the data: text or a list of messages."""

Build = Callable[[Any, Path | None], Verify]
"""(parameters, file with the user's code) -> verify."""

VERIFIERS: Registry[Build] = Registry(Verifier)

_LONGEST_SHOWN = 80


def build_verifier(parameters: Verifier, code: Path | None = None) -> Verify:
    """The function that scores completions. Raises whatever the user's code raises when it is loaded."""
    return VERIFIERS.of(parameters)(parameters, code)


def checked_reward(value: Any) -> float:
    """What a verifier returned, as a float. Raises `TypeError` if it is no number, `ValueError` if it is not finite."""
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, numbers.Real):
        raise TypeError(f"returned {shown(value)}, which is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"returned {number}, which is not finite")
    return number


def required_answer(answer: str | None) -> str:
    """The row's answer. Raises `ValueError` where it has none."""
    if answer is None:
        raise ValueError("the row has no answer")
    return answer


def required_column(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column of the row. Raises `ValueError` where it has none."""
    if row.get(column) is None:
        raise ValueError(f"the row has no {column}")
    return row[column]


def shown(value: Any) -> str:
    """A value as messages show it: its beginning."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
