"""Success rates of the prefixes of a solution, estimated by completing each of them many times.

This is where the rows of `data/valued_steps.py` come from (Setlur et al. 2024, arXiv:2406.14532, sec. 6): the policy
completes a prefix, a verifier of final answers says whether that succeeded, and the share of successes estimates the
value of the prefix. Each estimate is a mean of `rollouts` results of 0 or 1, so its standard error is at most
1 / (2 sqrt(rollouts)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from plumbline_trainer.data.valued_steps import Alternative, ValuedSteps

Succeeds = Callable[[Sequence[str]], bool]
"""Completes the steps once, as the policy would, and says whether the final answer is right."""

Propose = Callable[[Sequence[str]], Iterable[str]]
"""Steps that the policy proposes after the given ones."""


def value_steps(steps: Sequence[str], succeeds: Succeeds, propose: Propose, *, rollouts: int) -> ValuedSteps:
    """The values of all prefixes of a solution of n steps, the empty one and the whole included, and of alternatives.

    Costs (n + 1 + number of different proposals) x `rollouts` completions. Proposals that equal the solution's step
    are not tried again. Raises `ValueError` for a solution without steps or fewer rollouts than one.
    """
    if not steps or rollouts < 1:
        raise ValueError(f"needs at least one step and one rollout, found {len(steps)} and {rollouts}")

    def value(prefix: Sequence[str]) -> float:
        return sum(succeeds(prefix) for _ in range(rollouts)) / rollouts

    values = tuple(value(steps[:count]) for count in range(len(steps) + 1))
    alternatives = tuple(
        tuple(Alternative(other, value([*steps[:index], other])) for other in _others(propose(steps[:index]), step))
        for index, step in enumerate(steps)
    )
    return ValuedSteps(tuple(steps), values, alternatives)


def steps_to_row(prompt: Any, solution: ValuedSteps) -> dict[str, Any]:
    """The row of a data set, whose prompt (text or chat messages) is that of the problem."""
    return {
        "prompt": prompt,
        "steps": list(solution.steps),
        "values": list(solution.values),
        "alternatives": [
            [{"text": other.text, "value": other.value} for other in tried] for tried in solution.alternatives
        ],
    }


def _others(proposed: Iterable[str], step: str) -> list[str]:
    return [other for other in dict.fromkeys(proposed) if other != step]
