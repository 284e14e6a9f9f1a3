"""Scores a few rows before anything is trained, so that broken reward code costs seconds and not hours."""

from __future__ import annotations

from collections.abc import Sequence

from plumbline_api.methods.verifiers import PythonFunction
from plumbline_api.sources import Reward
from plumbline_trainer.data.rows import PromptRow
from plumbline_trainer.failures import DataError, RewardFunctionError
from plumbline_trainer.rewards.pool import Call, Outcome, VerifierPool

ROWS = 200
"""Rows whose answers the built-in verifiers try to read: each takes about a millisecond."""

ROWS_FOR_CODE = 2
"""Rows that the user's own code scores: how long it takes is not known."""


def rehearse(rewards: Sequence[Reward], rows: Sequence[PromptRow], pool: VerifierPool) -> list[str]:
    """Lets every component score the answers of the first rows as if they were completions; returns warnings.

    Raises `RewardFunctionError` where a component's code does not load or fails on every row, and `DataError` naming
    file and line where a built-in verifier cannot read a row's answer.
    """
    warnings = []
    for reward in rewards:
        own_code = isinstance(reward.verifier.value, PythonFunction)
        tried = rows[: ROWS_FOR_CODE if own_code else ROWS]
        outcomes = pool.run([Call(reward.name, row.prompt, row.answer or "", row.answer, row.columns) for row in tried])
        failed = [(row, outcome) for row, outcome in zip(tried, outcomes, strict=True) if outcome.failed]
        if not failed:
            continue
        place, outcome = failed[0][0].place, failed[0][1]
        if not own_code:
            raise DataError(f"{place}: reward {reward.name} cannot be computed: {outcome.error}")
        if len(failed) == len(tried):
            raise RewardFunctionError(f"reward {reward.name} failed on {place}: {_explained(outcome)}")
        warnings.append(f"reward {reward.name} failed on {place}: {outcome.error}")
    return warnings


def _explained(outcome: Outcome) -> str:
    return f"{outcome.error}\n{outcome.traceback}" if outcome.traceback else outcome.error
