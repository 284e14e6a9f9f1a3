"""From reports of RLVR trainings to figures, ratios, learning curves and their tables. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from bench.comparison import NotComparable
from bench.iterations import Iteration, RolloutReport
from bench.tables import markdown


@dataclass(frozen=True)
class RolloutFigures:
    """One side over all its runs; the first iteration of a run, which pays for what happens once, is left out."""

    iterations_per_hour: float
    """By wall time."""

    seconds: float
    """Wall seconds of an iteration."""

    cpu_seconds: float
    """CPU seconds of an iteration, the processes that score included."""

    generate_tokens_per_second: float
    generate_seconds: float
    score_seconds: float
    update_seconds: float
    """Wall seconds of an iteration's parts; the update is whatever is not generation or scoring."""

    tokens: float
    """Completion tokens of an iteration."""

    memory_bytes: float
    """Peak over the process as it was after its imports, with all memory of processes that it started; the median over
    the runs."""


@dataclass(frozen=True)
class RolloutRatios:
    """How many times our figure an opponent has, or we its; above 1 is to our favour except for memory."""

    iterations_per_hour: float
    iterations_per_hour_at_equal_tokens: float
    """The same for iterations with equally many completion tokens: samples differ, and with them the work."""

    cpu: float
    generation: float
    update: float
    memory: float
    """Our share of the opponent's."""


@dataclass(frozen=True)
class Curve:
    """Mean reward of each iteration: the mean, the lowest and the highest over the seeds."""

    means: list[float]
    lowest: list[float]
    highest: list[float]

    def overlap(self, other: Curve) -> float:
        """Share of the iterations in which the ranges over the seeds meet."""
        meets = [
            low <= other_high and other_low <= high
            for low, high, other_low, other_high in zip(
                self.lowest, self.highest, other.lowest, other.highest, strict=True
            )
        ]
        return sum(meets) / len(meets)


def rollout_figures(reports: Sequence[RolloutReport]) -> RolloutFigures:
    """The figures of one side, out of all iterations of all its runs but each one's first."""
    counted = [iteration for report in reports for iteration in report.iterations[1:] or report.iterations]
    seconds = mean(iteration.seconds.wall for iteration in counted)
    return RolloutFigures(
        iterations_per_hour=3600 / seconds,
        seconds=seconds,
        cpu_seconds=mean(iteration.seconds.cpu for iteration in counted),
        generate_tokens_per_second=sum(iteration.rollout.tokens for iteration in counted)
        / sum(iteration.rollout.generate_seconds for iteration in counted),
        generate_seconds=mean(iteration.rollout.generate_seconds for iteration in counted),
        score_seconds=mean(iteration.rollout.score_seconds for iteration in counted),
        update_seconds=mean(iteration.update_seconds for iteration in counted),
        tokens=mean(iteration.rollout.tokens for iteration in counted),
        memory_bytes=median(report.peak_bytes - report.base_bytes + report.helper_bytes for report in reports),
    )


def rollout_ratios(ours: RolloutFigures, other: RolloutFigures) -> RolloutRatios:
    """How an opponent compares with us."""
    return RolloutRatios(
        iterations_per_hour=ours.iterations_per_hour / other.iterations_per_hour,
        iterations_per_hour_at_equal_tokens=(other.seconds / other.tokens) / (ours.seconds / ours.tokens),
        cpu=other.cpu_seconds / ours.cpu_seconds,
        generation=ours.generate_tokens_per_second / other.generate_tokens_per_second,
        update=other.update_seconds / ours.update_seconds,
        memory=ours.memory_bytes / other.memory_bytes,
    )


def curve(reports: Sequence[RolloutReport]) -> Curve:
    """The learning curve of one side, one seed a report."""
    rewards = list(zip(*([_reward(iteration) for iteration in report.iterations] for report in reports), strict=True))
    return Curve([mean(some) for some in rewards], [min(some) for some in rewards], [max(some) for some in rewards])


def require_same_prompts(reports: Mapping[str, Sequence[RolloutReport]], iterations: int) -> None:
    """Raises `NotComparable` unless every run made `iterations` iterations on the same token ids of the prompts."""
    if len({run.prompt_digest for runs in reports.values() for run in runs}) > 1:
        raise NotComparable("the sides have other token ids of the prompts, or took them in another order")
    for name, runs in reports.items():
        if any(len(run.iterations) != iterations for run in runs):
            raise NotComparable(f"{name} made another number of iterations than {iterations}")


def rollout_figures_table(sides: Mapping[str, RolloutFigures]) -> str:
    """One row a side."""
    header = ["", "iterations/hour", "s", "CPU s", "generate s", "tokens/s", "score s", "update s", "tokens", "memory"]
    rows = [
        [
            name,
            f"{side.iterations_per_hour:.0f}",
            f"{side.seconds:.2f}",
            f"{side.cpu_seconds:.2f}",
            f"{side.generate_seconds:.2f}",
            f"{side.generate_tokens_per_second:.0f}",
            f"{side.score_seconds:.3f}",
            f"{side.update_seconds:.2f}",
            f"{side.tokens:.0f}",
            f"{side.memory_bytes / 2**20:.0f} MiB",
        ]
        for name, side in sides.items()
    ]
    return markdown(header, rows)


def rollout_ratios_table(opponents: Mapping[str, RolloutRatios]) -> str:
    """One row an opponent."""
    header = [
        "plumbline against",
        "iterations/hour",
        "at equal tokens",
        "CPU",
        "generation tokens/s",
        "update",
        "our share of its memory",
    ]
    rows = [
        [
            name,
            f"{other.iterations_per_hour:.2f}x",
            f"{other.iterations_per_hour_at_equal_tokens:.2f}x",
            f"{other.cpu:.2f}x",
            f"{other.generation:.2f}x",
            f"{other.update:.2f}x",
            f"{other.memory:.2f}",
        ]
        for name, other in opponents.items()
    ]
    return markdown(header, rows)


def curves_table(curves: Mapping[str, Curve], rows: int = 10) -> str:
    """One row an iteration, about `rows` of them, as mean (lowest to highest) over the seeds."""
    count = min(len(one.means) for one in curves.values())
    shown = sorted({round(index * (count - 1) / max(1, rows - 1)) for index in range(rows)})
    return markdown(
        ["mean reward at iteration", *curves],
        [
            [
                str(index + 1),
                *(
                    f"{one.means[index]:.3f} ({one.lowest[index]:.3f} to {one.highest[index]:.3f})"
                    for one in curves.values()
                ),
            ]
            for index in shown
        ],
    )


def _reward(iteration: Iteration) -> float:
    return iteration.rollout.reward
