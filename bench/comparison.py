"""From reports to figures: cost of a token, memory, equality of the losses, ratios. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.measurement import Report, Seconds, Step

LOSS_TOLERANCE = 1e-4
"""Largest difference between two sides' losses at a step that rounding may explain."""


class NotComparable(Exception):
    """The sides did not do the same work."""


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one useful token."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Figures:
    """One side over all its runs; every figure is the median over the runs."""

    first_epoch: Cost
    """Everything from the model in memory to the end of the first epoch: rows, reference, all steps."""

    first_epoch_steps: Cost
    """The first epoch's steps alone, whatever was computed before them left out."""

    later_epochs: Cost | None
    """The steps of all later epochs; None where there is one epoch."""

    step: Cost
    """The median step, the first one left out, which pays for what happens once."""

    tokens_per_second: float
    """Of wall time, in the first epoch with everything counted."""

    before_steps: Seconds
    """From the end of the imports to the first step, without reading weights."""

    memory_bytes: float
    """Peak over the process as it was after its imports."""

    kernel_share: float
    """Of the CPU seconds up to the last step, the share that the kernel took."""

    spread: float
    """Largest over smallest CPU cost of the first epoch among the runs, minus one."""

    losses: list[float]
    """Of every step, from the first run."""


@dataclass(frozen=True)
class Ratios:
    """An opponent's figures over ours, so that above 1 means that we need less; memory is ours over the opponent's."""

    first_epoch: Cost
    first_epoch_over_steps: Cost
    """The opponent's steps alone over everything of ours: the comparison that favours the opponent most."""

    later_epochs: Cost | None
    step: Cost
    memory: float
    loss_difference: float
    """Largest absolute difference of the losses at any step."""

    @property
    def losses_agree(self) -> bool:
        """Whether the losses are the same up to rounding."""
        return self.loss_difference <= LOSS_TOLERANCE


def figures(reports: Sequence[Report], steps_per_epoch: int) -> Figures:
    """The figures of one side."""
    costs = [_first_epoch(report, steps_per_epoch).cpu for report in reports]
    later = [_cost(report.steps[steps_per_epoch:]) for report in reports if len(report.steps) > steps_per_epoch]
    steps = [[_cost([step]) for step in report.steps[1:] or report.steps] for report in reports]
    return Figures(
        first_epoch=_median_cost([_first_epoch(report, steps_per_epoch) for report in reports]),
        first_epoch_steps=_median_cost([_cost(report.steps[:steps_per_epoch]) for report in reports]),
        later_epochs=_median_cost(later) if later else None,
        step=_median_cost([_median_cost(of_run) for of_run in steps]),
        tokens_per_second=1e3 / median(_first_epoch(report, steps_per_epoch).wall for report in reports),
        before_steps=Seconds(
            median(report.before_steps.wall for report in reports),
            median(report.before_steps.cpu for report in reports),
        ),
        memory_bytes=median(report.peak_bytes - report.base_bytes for report in reports),
        kernel_share=median(_kernel_share(report) for report in reports),
        spread=max(costs) / min(costs) - 1,
        losses=[step.loss for step in reports[0].steps],
    )


def ratios(ours: Figures, other: Figures) -> Ratios:
    """How an opponent compares with us."""
    later = None
    if ours.later_epochs is not None and other.later_epochs is not None:
        later = _over(other.later_epochs, ours.later_epochs)
    return Ratios(
        first_epoch=_over(other.first_epoch, ours.first_epoch),
        first_epoch_over_steps=_over(other.first_epoch_steps, ours.first_epoch),
        later_epochs=later,
        step=_over(other.step, ours.step),
        memory=ours.memory_bytes / other.memory_bytes,
        loss_difference=loss_difference(ours.losses, other.losses),
    )


def loss_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """Largest absolute difference at any step; infinite where a loss is not finite. The lengths must agree."""
    differences = [abs(one - other) for one, other in zip(first, second, strict=True)]
    return max((value if math.isfinite(value) else math.inf for value in differences), default=0.0)


def require_same_work(reports: Mapping[str, Sequence[Report]], tokens: Sequence[int]) -> None:
    """Raises `NotComparable` unless every run of every side made `tokens` useful tokens at each step, out of the same
    token ids, and repeats of a side gave the same losses up to rounding."""
    digests = {run.token_digest for runs in reports.values() for run in runs}
    if len(digests) > 1:
        raise NotComparable("the sides made different token ids of the same rows")
    for name, runs in reports.items():
        for run in runs:
            if [step.tokens for step in run.steps] != list(tokens):
                raise NotComparable(f"{name} trained on other numbers of tokens than the rows have")
            difference = loss_difference([step.loss for step in run.steps], [step.loss for step in runs[0].steps])
            if difference > LOSS_TOLERANCE:
                raise NotComparable(f"{name}: the losses of two runs differ by {difference:.2g}")


def _kernel_share(report: Report) -> float:
    whole = sum((step.seconds for step in report.steps), report.loading + report.before_steps)
    return report.kernel_seconds / whole.cpu


def _first_epoch(report: Report, steps_per_epoch: int) -> Cost:
    return _cost(report.steps[:steps_per_epoch], report.before_steps)


def _cost(steps: Sequence[Step], before: Seconds | None = None) -> Cost:
    seconds = sum((step.seconds for step in steps), before or Seconds())
    tokens = sum(step.tokens for step in steps)
    return Cost(seconds.cpu / tokens * 1e3, seconds.wall / tokens * 1e3)


def _median_cost(costs: Sequence[Cost]) -> Cost:
    return Cost(median(cost.cpu for cost in costs), median(cost.wall for cost in costs))


def _over(numerator: Cost, denominator: Cost) -> Cost:
    return Cost(numerator.cpu / denominator.cpu, numerator.wall / denominator.wall)
