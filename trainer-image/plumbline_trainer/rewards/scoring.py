"""From components to total rewards: weights, failed calls, and what is shown about them.

A failed call (raised, no finite number, out of time, process died) is counted and shown for its component, and the
completion either takes the component's `errorValue` or has no reward at all. A component that fails more often than
`maxErrorFraction` ends the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from plumbline_api.sources import Reward
from plumbline_trainer.failures import RewardFunctionError, RewardFunctionTimeout
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rewards.pool import Call, Outcome, VerifierPool

FLOATING_POINT_SLACK = 1e-9
"""A share such as 0.29 of 100 calls allows 29 errors, though 0.29 * 100 is below 29 in binary."""


@dataclass(frozen=True)
class Sample:
    """What verifiers see of one completion."""

    prompt: Any
    completion: str
    answer: str | None
    row: dict[str, Any]
    group: int | None = None
    """Which samples are of one prompt and are compared with each other; None for one that is scored alone."""


@dataclass(frozen=True)
class Scores:
    """The rewards of N completions."""

    components: dict[str, Tensor]
    """[N] float64 for each component, before its weight; `errorValue` or NaN where the call failed."""

    totals: Tensor
    """[N] float64: the weighted sum of the components; 0 where `valid` is false."""

    valid: Tensor
    """[N] bool: false where a component has no value."""

    metrics: dict[str, Metric]
    """`reward/mean`, `reward/<component>`, shares of failed and timed-out calls, and seconds a call; for a component
    that compares samples `comparison_errors/<component>`, the share of comparisons that failed.

    Every one is a sum over calls and their number, so that totals over steps and ranks can be had as well.
    """

    batch_seconds: float = 0.0
    """Wall time of the components that score many completions at once: judges and reward models."""


class BatchComponent(Protocol):
    """A component that scores many completions at once, in the trainer's own process."""

    def score(
        self,
        samples: Sequence[Sample],
        poll: Callable[[], None] = lambda: None,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> list[Outcome]:
        """The outcome of every sample, in order. `poll` is called between pieces of work and `on_outcome` for each
        outcome; either ends the run by raising."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class Scorer:
    """Scores completions with the components of a job."""

    def __init__(
        self, rewards: Sequence[Reward], pool: VerifierPool, batches: Mapping[str, BatchComponent] | None = None
    ) -> None:
        """`batches` are the components, by name, that `pool` does not know."""
        self._rewards = rewards
        self._pool = pool
        self._batches = batches or {}

    def score(
        self,
        samples: Sequence[Sample],
        poll: Callable[[], None] = lambda: None,
        calls_of_step: int | None = None,
        *,
        in_groups: bool = False,
    ) -> Scores:
        """Rewards of all samples. `calls_of_step` counts a component's calls over all ranks; default: those made here.

        `in_groups` says that they are whole groups: else components that compare a group have no part in the scores.
        Raises `RewardFunctionError` as soon as a component has failed more often than it may in the whole step.
        """
        rewards = [reward for reward in self._rewards if in_groups or not reward.verifier.value.compares_group]
        failures = _Failures(rewards, calls_of_step or len(samples))
        in_pool = [reward.name for reward in rewards if reward.name not in self._batches]
        calls = [
            Call(name, sample.prompt, sample.completion, sample.answer, sample.row)
            for name in in_pool
            for sample in samples
        ]
        outcomes = self._pool.run(calls, poll, lambda call, outcome: failures.note(call.component, outcome))
        by_component = {
            name: outcomes[index * len(samples) : (index + 1) * len(samples)] for index, name in enumerate(in_pool)
        }
        started = time.perf_counter()
        for reward in rewards:
            if reward.name in self._batches:
                component = self._batches[reward.name]
                by_component[reward.name] = component.score(samples, poll, partial(failures.note, reward.name))
        batch_seconds = time.perf_counter() - started if self._batches else 0.0
        return replace(combine(rewards, by_component), batch_seconds=batch_seconds)


def combine(rewards: Sequence[Reward], outcomes: dict[str, list[Outcome]]) -> Scores:
    """Weighted totals and metrics from the outcomes of every component."""
    components: dict[str, Tensor] = {}
    metrics: dict[str, Metric] = {}
    count = len(outcomes[rewards[0].name])
    totals = torch.zeros(count, dtype=torch.float64)
    valid = torch.ones(count, dtype=torch.bool)
    for reward in rewards:
        instead = float("nan") if reward.error_value is None else reward.error_value
        values = torch.tensor(
            [instead if outcome.value is None else outcome.value for outcome in outcomes[reward.name]],
            dtype=torch.float64,
        )
        components[reward.name] = values
        has_value = ~values.isnan()
        valid &= has_value
        totals += reward.weight * values.nan_to_num(0.0)
        metrics[f"reward/{reward.name}"] = Metric.mean_of(values.nan_to_num(0.0), has_value)
        errors = sum(outcome.failed for outcome in outcomes[reward.name])
        timeouts = sum(outcome.timed_out for outcome in outcomes[reward.name])
        metrics[f"reward_errors/{reward.name}"] = Metric(float(errors), float(count))
        metrics[f"reward_timeouts/{reward.name}"] = Metric(float(timeouts), float(count))
        seconds = sum(outcome.seconds for outcome in outcomes[reward.name])
        metrics[f"reward_seconds/{reward.name}"] = Metric(seconds, float(count))
        if reward.verifier.value.compares_group:
            failed = sum(outcome.failed_comparisons for outcome in outcomes[reward.name])
            compared = sum(outcome.comparisons for outcome in outcomes[reward.name])
            metrics[f"comparison_errors/{reward.name}"] = Metric(float(failed), float(compared))
    totals = torch.where(valid, totals, 0.0)
    metrics["reward/mean"] = Metric.mean_of(totals, valid)
    return Scores(components, totals, valid, metrics)


def check_error_shares(rewards: Sequence[Reward], metrics: dict[str, Metric]) -> None:
    """Refuses a step whose failed calls, summed over ranks, are more than a component may have.

    A rank that alone exceeds the limit has raised in `Scorer.score` with the traceback; this catches errors that are
    spread over ranks. Components that `metrics` do not name had no part in the step.
    """
    for reward in rewards:
        errors = metrics.get(f"reward_errors/{reward.name}", Metric(0.0, 0.0))
        if float(errors.total) > _allowed(reward, float(errors.count)):
            timeouts = float(metrics[f"reward_timeouts/{reward.name}"].total)
            failure = _failure_class(float(errors.total), timeouts)
            raise failure(_verdict(reward, int(errors.total), int(errors.count)))


class _Failures:
    """Counts failed calls as they come and ends the run at the first one too many."""

    def __init__(self, rewards: Sequence[Reward], calls: int) -> None:
        self._rewards = {reward.name: reward for reward in rewards}
        self._calls = calls
        self._failed: Counter[str] = Counter()
        self._timed_out: Counter[str] = Counter()

    def note(self, component: str, outcome: Outcome) -> None:
        if not outcome.failed:
            return
        self._failed[component] += 1
        self._timed_out[component] += outcome.timed_out
        reward = self._rewards[component]
        failed = self._failed[component]
        if failed > _allowed(reward, self._calls):
            detail = f"; the last: {outcome.error}"
            if outcome.traceback:
                detail += f"\n{outcome.traceback}"
            raise _failure_class(failed, self._timed_out[component])(_verdict(reward, failed, self._calls) + detail)


def _failure_class(failed: float, timed_out: float) -> type[RewardFunctionError]:
    """Slow where most failed calls ran out of time: more time would help, mending the code would not."""
    return RewardFunctionTimeout if 2 * timed_out > failed else RewardFunctionError


def _allowed(reward: Reward, calls: float) -> float:
    return reward.max_error_fraction * calls + FLOATING_POINT_SLACK


def _verdict(reward: Reward, failed: int, calls: int) -> str:
    return (
        f"reward {reward.name}: {failed} of the step's {calls} calls failed, "
        f"more than maxErrorFraction {reward.max_error_fraction:g} allows"
    )
