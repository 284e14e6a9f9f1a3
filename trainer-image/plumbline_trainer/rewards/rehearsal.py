"""Scores a few rows before anything is trained, so that broken reward code costs seconds and not hours."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from plumbline_api.methods.verifiers.code import Code
from plumbline_api.methods.verifiers.judges import Judge
from plumbline_api.methods.verifiers.python import PythonFunction
from plumbline_api.sources import Reward
from plumbline_trainer.data.rows import PromptRow
from plumbline_trainer.failures import DataError, RewardFunctionError, RewardFunctionTimeout
from plumbline_trainer.rewards.components import in_processes, open_batch_components
from plumbline_trainer.rewards.pool import SANDBOXED, Call, Outcome, VerifierPool
from plumbline_trainer.rewards.sandbox.landlock import SIGNALS_SCOPED, abi_version
from plumbline_trainer.rewards.scoring import Sample

CHUNK = 200
"""Rows that the built-in verifiers try between two looks at the clock: each takes less than a millisecond."""

ROWS_FOR_CODE = 2
"""Rows that the user's own code scores: how long it takes is not known."""

REHEARSAL_SECONDS = 20.0
"""Longest time for a call of the rehearsal, however long `timeoutSeconds` allows it to take in training."""


ANOTHER = " or something else"
"""What makes another text of an answer."""


def rehearse(rewards: Sequence[Reward], rows: Sequence[PromptRow], pool: VerifierPool) -> list[str]:
    """Lets every component score answers as if they were completions; returns warnings.

    Built-in verifiers see all of `rows`, judges and the user's code the first ones, and reward models none.
    Raises `RewardFunctionError` where a component's code does not load or fails on every row, and `DataError` naming
    file and line where a built-in verifier cannot read a row's answer. Code that takes longer than
    `REHEARSAL_SECONDS` and may is a warning: whether it ever ends is for the training to find out.
    """
    warnings = weaknesses(rewards, abi_version())
    for reward in rewards:
        if isinstance(reward.verifier.value, Judge):
            warnings += _ask(reward, rows[:ROWS_FOR_CODE])
    for reward in in_processes(rewards):
        own_code = isinstance(reward.verifier.value, PythonFunction)
        if not own_code:
            _read_all(reward, rows, pool)
            continue
        tried = rows[:ROWS_FOR_CODE]
        outcomes = pool.run(_calls(reward, tried), longest=REHEARSAL_SECONDS)
        failed = [(row.place, outcome) for row, outcome in zip(tried, outcomes, strict=True) if outcome.failed]
        if not failed:
            continue
        place, outcome = failed[0]
        unfinished = outcome.timed_out and reward.timeout_seconds > REHEARSAL_SECONDS
        if len(failed) == len(tried) and not unfinished:
            slow = all(outcome.timed_out for _, outcome in failed)
            failure = RewardFunctionTimeout if slow else RewardFunctionError
            raise failure(f"reward {reward.name} failed on {place}: {_explained(outcome)}")
        allowed = f"; timeoutSeconds {reward.timeout_seconds:g} allows it more in training" if unfinished else ""
        warnings.append(f"reward {reward.name} failed on {place}: {outcome.error}{allowed}")
    return warnings


def _ask(reward: Reward, rows: Sequence[PromptRow]) -> list[str]:
    """Lets a judge score the first rows. It must answer for one of them; that others fail is a warning.

    A judge that compares is asked about each row's answer and a text that differs from it.
    """
    limited = reward.model_copy(update={"timeout_seconds": min(reward.timeout_seconds, REHEARSAL_SECONDS)})
    [judge] = open_batch_components([limited], {}, torch.device("cpu")).values()
    asked = [(row, group, row.answer or "") for group, row in enumerate(rows)]
    if reward.verifier.value.compares_group:
        asked += [(row, group, f"{text}{ANOTHER}") for row, group, text in asked]
    outcomes = judge.score([Sample(row.prompt, text, row.answer, row.columns, group) for row, group, text in asked])
    # of two that are compared, both fail or none
    failed = [(row.place, outcome.error) for row, outcome in zip(rows, outcomes, strict=False) if outcome.failed]
    if len(failed) == len(rows):
        failure = RewardFunctionTimeout if all(outcome.timed_out for outcome in outcomes) else RewardFunctionError
        raise failure(f"reward {reward.name} failed on {failed[0][0]}: {failed[0][1]}")
    return [f"reward {reward.name} failed on {place}: {error}" for place, error in failed]


def _read_all(reward: Reward, rows: Sequence[PromptRow], pool: VerifierPool) -> None:
    """Lets a built-in verifier try all rows, or as many as it manages in `REHEARSAL_SECONDS`; it must read each."""
    started = time.monotonic()
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        calls = _calls(reward, some)
        row_of = {id(call): row for call, row in zip(calls, some, strict=True)}
        outcomes = pool.run(calls, on_outcome=partial(_refuse_hanging, row_of), longest=REHEARSAL_SECONDS)
        for row, outcome in zip(some, outcomes, strict=True):
            if outcome.failed:
                raise _unreadable(row.place, reward.name, outcome)
        if time.monotonic() - started > REHEARSAL_SECONDS:
            return


def _calls(reward: Reward, rows: Sequence[PromptRow]) -> list[Call]:
    """Answers in place of completions; for tests of programs none: they are read, and nothing is run."""
    runs_programs = isinstance(reward.verifier.value, Code)
    return [
        Call(reward.name, row.prompt, "" if runs_programs else row.answer or "", row.answer, row.columns)
        for row in rows
    ]


def weaknesses(rewards: Sequence[Reward], landlock_version: int) -> list[str]:
    """What the sandbox cannot hold on a kernel with this version of Landlock, as far as these components need it."""
    sandboxed = [reward for reward in rewards if isinstance(reward.verifier.value, SANDBOXED)]
    warnings = []
    for reward in sandboxed:
        alone = reward.verifier.value.processes == 1
        if landlock_version == 0 and alone:
            warnings.append(
                f"reward {reward.name}: this kernel has no Landlock, so its code can open no file by name: "
                "modules that are not loaded before it starts, and the temporary directory, are out of its reach"
            )
        elif landlock_version == 0:
            warnings.append(
                f"reward {reward.name}: this kernel has no Landlock, so its code can open all files that the trainer's "
                "user can; processes: 1 lets it open none"
            )
        elif landlock_version < SIGNALS_SCOPED and not alone:
            warnings.append(
                f"reward {reward.name}: this kernel's Landlock does not scope signals, so its code cannot end the "
                "processes that it starts; they end with its call's time, or with the job"
            )
    return warnings


def _refuse_hanging(rows: Mapping[int, PromptRow], call: Call, outcome: Outcome) -> None:
    """A built-in verifier that runs out of time once may do so on every row: that is not waited for."""
    if outcome.timed_out:
        raise _unreadable(rows[id(call)].place, call.component, outcome)


def _unreadable(place: str, name: str, outcome: Outcome) -> DataError:
    return DataError(f"{place}: reward {name} cannot be computed: {outcome.error}")


def _explained(outcome: Outcome) -> str:
    return f"{outcome.error}\n{outcome.traceback}" if outcome.traceback else outcome.error
