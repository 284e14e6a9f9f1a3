"""Sums worked column by column: pairs of steps, recorded searches, and solutions with the success rates of their steps.

A solution of `What is 47 + 38?` has three steps, each a line:

    7 + 8 = 15
    4 + 3 + 1 = 8
    85

The typical mistake is made in the second one: a carry that is forgotten, or one that was not there. docs/steps.md
describes the rows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

COMPLETIONS_PER_PREFIX = 16
"""Success rates are shares of so many completions."""

RIGHT_SOLUTIONS = 0.25
"""Share of the solutions with success rates that make no mistake, and so give no pair."""


@dataclass(frozen=True)
class WorkedSum:
    """The three steps of a sum of two two-digit numbers, and the wrong form of each."""

    prompt: str
    right: tuple[str, str, str]
    wrong: tuple[str, str, str]

    @classmethod
    def of(cls, a: int, b: int, random_numbers: random.Random) -> WorkedSum:
        """The wrong first step is off by one; the wrong second one errs about the carry, and the third follows it."""
        (a_tens, a_units), (b_tens, b_units) = divmod(a, 10), divmod(b, 10)
        units = a_units + b_units
        carries = units >= 10
        with_carry = f"{a_tens} + {b_tens} + 1 = {a_tens + b_tens + 1}\n"
        without = f"{a_tens} + {b_tens} = {a_tens + b_tens}\n"
        off_by_one = units + random_numbers.choice((-1, 1)) if units else 1
        return cls(
            f"What is {a} + {b}?",
            (f"{a_units} + {b_units} = {units}\n", with_carry if carries else without, str(a + b)),
            (
                f"{a_units} + {b_units} = {off_by_one}\n",
                without if carries else with_carry,
                str(a + b + (-10 if carries else 10)),
            ),
        )


def step_pair(worked: WorkedSum) -> Row:
    """The second step, right and wrong, after the first."""
    return {"prompt": worked.prompt, "prefix": worked.right[0], "chosen": worked.right[1], "rejected": worked.wrong[1]}


def search_tree(worked: WorkedSum) -> Row:
    """A search that tried the right and the wrong form of each step; the checker refused every wrong one."""
    nodes: list[Row] = []
    parent: int | None = None
    for right, wrong in zip(worked.right, worked.wrong, strict=True):
        on_path = len(nodes) + 1
        nodes += [
            {"id": on_path, "parent": parent, "text": right, "onPath": True},
            {"id": on_path + 1, "parent": parent, "text": wrong, "error": f"expected {right.strip()}"},
        ]
        parent = on_path
    return {"prompt": worked.prompt, "nodes": nodes}


def valued_steps(worked: WorkedSum, random_numbers: random.Random) -> Row:
    """A solution, mostly one that errs at the second step, with success rates and what else was tried there."""

    def rate(low: int, high: int) -> float:
        return random_numbers.randint(low, high) / COMPLETIONS_PER_PREFIX

    if random_numbers.random() < RIGHT_SOLUTIONS:
        return {"prompt": worked.prompt, "steps": list(worked.right), "values": [rate(5, 8), rate(6, 9), 1.0, 1.0]}
    return {
        "prompt": worked.prompt,
        "steps": [worked.right[0], *worked.wrong[1:]],
        "values": [rate(5, 8), rate(6, 9), rate(0, 2), 0.0],
        "alternatives": [[], [{"text": worked.right[1], "value": rate(14, 16)}], []],
    }
