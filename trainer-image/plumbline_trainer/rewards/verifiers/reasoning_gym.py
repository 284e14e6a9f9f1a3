"""Problems of the library reasoning-gym, made again where they are scored, by the task's own scorer.

A row says which problem it is (`COLUMN`) and does not hold it: some tasks keep tuples and sets in their problems, which
a row, being JSON, cannot, and would score another value than what they made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumbline_api.methods.verifiers.generated import ReasoningGymScore
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify, required_column

COLUMN = "reasoningGym"
"""Column that says which problem a row is: task, config, seed, size, and index of the problem."""

_PROBLEMS_KEPT = 1024
"""The completions of one prompt are scored one after another."""


@VERIFIERS.implements(ReasoningGymScore)
def reasoning_gym_score(parameters: ReasoningGymScore, code: Path | None) -> Verify:
    """Asks the task that made the problem. Raises `ValueError` for rows of another origin."""
    import reasoning_gym  # noqa: F401  (its seconds are the component's and not those of its first call)

    extract = re.compile(parameters.extract, re.DOTALL) if parameters.extract else None

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        origin = required_column(row, COLUMN)
        dataset = open_task(origin)
        problem = _problem(_key(origin), origin["index"])
        if problem["question"] != prompt:
            raise ValueError(f"problem {origin['index']} of {origin['task']} is another one than the row's prompt")
        given = completion.strip()
        if extract is not None:
            matches = list(extract.finditer(completion))
            if not matches:
                return 0.0
            given = (matches[-1].group(1 if extract.groups else 0) or "").strip()
        score = float(dataset.score_answer(given, problem))
        return score if parameters.partial_credit else float(score >= 1)

    return verify


def open_task(origin: Mapping[str, Any]) -> Any:
    """The library's data set that `origin` (the value of `COLUMN`, its index aside) names; one object for each."""
    return _open(_key(origin))


def _key(origin: Mapping[str, Any]) -> str:
    return json.dumps([origin["task"], origin["seed"], origin["size"], origin["config"]], sort_keys=True)


@lru_cache(maxsize=16)
def _open(key: str) -> Any:
    from reasoning_gym.factory import create_dataset

    task, seed, size, config = json.loads(key)
    return create_dataset(task, **{**config, "seed": seed, "size": size})


@lru_cache(maxsize=_PROBLEMS_KEPT)
def _problem(key: str, index: int) -> dict[str, Any]:
    problem: dict[str, Any] = _open(key)[index]
    return problem
