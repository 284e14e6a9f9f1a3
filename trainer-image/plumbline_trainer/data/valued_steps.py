"""Rows of solutions with the success rate of each of their prefixes. Malformed rows are refused.

A row is one solution of one prompt:

    {"prompt": "...", "steps": ["first step\\n", "second step\\n"],
     "values": [0.5, 0.6, 0.1],
     "alternatives": [[], [{"text": "another second step\\n", "value": 0.9}]]}

`values[i]` is the share of successes among completions that a model sampled after the first i steps: `values[0]` after
the prompt alone, and one more than there are steps. `alternatives[i]` are other steps tried in place of step i, with
the success rate after each; they may be left out.

A step leads to one text, so Q(s_i, step_i) = V(s_i + step_i): the advantage of step i over the model's average in its
state is values[i + 1] - values[i], and that of an alternative its value - values[i].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plumbline_trainer.data.conversations import BadRow, Prompt
from plumbline_trainer.data.files import json_type
from plumbline_trainer.data.search_trees import read_rate, read_text


@dataclass(frozen=True)
class Alternative:
    """A step tried in place of another."""

    text: str
    value: float
    """Success rate after it."""


@dataclass(frozen=True)
class ValuedSteps:
    """A solution of n steps."""

    steps: tuple[str, ...]
    values: tuple[float, ...]
    """n + 1 success rates: of the prompt alone, and after each step."""

    alternatives: tuple[tuple[Alternative, ...], ...]
    """n lists: what else was tried in place of each step."""

    @property
    def advantages(self) -> tuple[float, ...]:
        """n differences: by how much each step changed the success rate."""
        return tuple(after - before for before, after in zip(self.values, self.values[1:], strict=False))

    def pit(self, threshold: float) -> int | None:
        """The first step at which the success rate falls by more than `threshold`; None where none does.

        Later steps only build on it: what follows a mistake is no evidence about the steps that follow.
        """
        return next((index for index, gain in enumerate(self.advantages) if gain < -threshold), None)


@dataclass(frozen=True)
class StepsRow:
    """A prompt with a solution whose prefixes have success rates."""

    place: str
    prompt: Prompt
    solution: ValuedSteps


def read_steps(values: Mapping[str, Any]) -> ValuedSteps:
    """The solution in the columns `steps`, `values` and `alternatives`. Raises `BadRow` for a malformed row."""
    steps = _list(values, "steps")
    rates = _list(values, "values")
    if not steps:
        raise BadRow("steps is an empty list")
    if len(rates) != len(steps) + 1:
        raise BadRow(
            f"values must have one number more than there are steps, the first for the prompt alone: "
            f"found {len(rates)} for {len(steps)} steps"
        )
    tried = [[] for _ in steps] if values.get("alternatives") is None else _list(values, "alternatives")
    if len(tried) != len(steps):
        raise BadRow(f"alternatives must have one list for each step: found {len(tried)} for {len(steps)} steps")
    return ValuedSteps(
        tuple(read_text(step, f"steps[{index}]") for index, step in enumerate(steps)),
        tuple(read_rate(rate, f"values[{index}]") for index, rate in enumerate(rates)),
        tuple(_alternatives(others, f"alternatives[{index}]") for index, others in enumerate(tried)),
    )


def _list(values: Mapping[str, Any], column: str) -> list[Any]:
    found = values.get(column)
    if found is None:
        raise BadRow(f"{column} is missing")
    if not isinstance(found, list):
        raise BadRow(f"{column} must be a list, found {json_type(found)}")
    return found


def _alternatives(found: Any, place: str) -> tuple[Alternative, ...]:
    if found is None:
        return ()
    if not isinstance(found, list):
        raise BadRow(f"{place} must be a list of steps with text and value, found {json_type(found)}")
    alternatives = []
    for index, other in enumerate(found):
        if not isinstance(other, dict):
            raise BadRow(f"{place}[{index}] must be an object with text and value, found {json_type(other)}")
        alternatives.append(
            Alternative(
                read_text(other.get("text"), f"{place}[{index}].text"),
                read_rate(other.get("value"), f"{place}[{index}].value"),
            )
        )
    return tuple(alternatives)
