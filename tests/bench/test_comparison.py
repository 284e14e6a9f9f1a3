"""Figures and ratios against numbers by hand; what cannot be compared is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.comparison import Cost, NotComparable, figures, loss_difference, ratios, require_same_work
from bench.measurement import Report, Seconds, Step
from bench.tables import figures_table, markdown, ratios_table


def report(
    cpu: list[float],
    *,
    wall: float = 2.0,
    before: float = 0.0,
    losses: list[float] | None = None,
    peak: int = 300,
    **changes: Any,
) -> Report:
    """A run whose steps took `cpu` seconds and `wall` times as long on the wall, each with 1000 tokens."""
    losses = losses or [0.5] * len(cpu)
    steps = [Step(Seconds(wall * seconds, seconds), loss, 1000) for seconds, loss in zip(cpu, losses, strict=True)]
    values = {"base_bytes": 100, "peak_bytes": peak, "token_digest": "same", "kernel_seconds": 0.0, **changes}
    return Report({}, loading=Seconds(9, 9), before_steps=Seconds(wall * before, before), steps=steps, **values)


def test_figures_by_hand() -> None:
    side = figures([report([4.0, 2.0, 1.0, 3.0], before=6.0, kernel_seconds=5.0)], steps_per_epoch=2)
    assert side.first_epoch == Cost(cpu=6.0, wall=12.0)  # (6 + 4 + 2) s over 2000 tokens; weights are not counted
    assert side.first_epoch_steps == Cost(cpu=3.0, wall=6.0)
    assert side.later_epochs == Cost(cpu=2.0, wall=4.0)
    assert side.step == Cost(cpu=2.0, wall=4.0)  # of 2, 1, 3: the first step is left out
    assert side.tokens_per_second == pytest.approx(1000 / 12)
    assert side.memory_bytes == 200
    assert side.kernel_share == 0.2  # of 9 s reading weights, 6 s before the first step, 10 s of steps


def test_figures_are_medians_over_runs() -> None:
    runs = [report([1.0, 1.0], peak=110), report([9.0, 9.0], peak=190), report([2.0, 2.0], peak=120)]
    side = figures(runs, steps_per_epoch=2)
    assert side.first_epoch.cpu == 2.0
    assert side.memory_bytes == 20
    assert side.spread == pytest.approx(8.0)
    assert side.later_epochs is None


def test_costs_weigh_steps_by_their_tokens() -> None:
    run = report([1.0, 3.0])
    run.steps[1].tokens = 3000
    assert figures([run], steps_per_epoch=2).first_epoch.cpu == 1.0


def test_ratios_by_hand() -> None:
    ours = figures([report([1.0, 1.0, 0.5, 0.5], before=1.0, peak=200)], steps_per_epoch=2)
    other = figures(
        [report([4.0, 4.0, 4.0, 4.0], wall=1.0, before=1.0, peak=500, losses=[0.5, 0.5, 0.5002, 0.5])],
        steps_per_epoch=2,
    )
    result = ratios(ours, other)
    assert result.first_epoch == Cost(cpu=3.0, wall=1.5)
    assert result.first_epoch_over_steps.cpu == pytest.approx(8 / 3)
    assert result.later_epochs == Cost(cpu=8.0, wall=4.0)
    assert result.memory == 0.25
    assert result.loss_difference == pytest.approx(2e-4)
    assert not result.losses_agree
    assert "**above 1e-04**" in ratios_table({"other": result})
    assert ratios(ours, ours).losses_agree
    assert "above" not in ratios_table({"ours": ratios(ours, ours)})


def test_a_loss_that_is_not_finite_never_agrees() -> None:
    assert loss_difference([0.5, math.nan], [0.5, 0.5]) == math.inf
    with pytest.raises(ValueError):
        loss_difference([0.5], [0.5, 0.5])


def test_the_same_work_is_accepted() -> None:
    require_same_work({"one": [report([1.0, 1.0])] * 2, "other": [report([2.0, 2.0])]}, [1000, 1000])


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"one": [report([1.0])], "other": [report([1.0], token_digest="other")]}, "different token ids"),
        ({"one": [report([1.0, 1.0])]}, "one trained on other numbers of tokens"),
        ({"one": [report([1.0]), report([1.0], losses=[0.6])]}, "the losses of two runs differ by 0.1"),
    ],
)
def test_other_work_is_refused(runs: dict[str, list[Report]], message: str) -> None:
    with pytest.raises(NotComparable, match=message):
        require_same_work(runs, [1000])


def test_tables_have_a_row_for_every_side() -> None:
    assert markdown(["a", "b"], [["c", "d"]]) == "| a | b |\n| --- | ---: |\n| c | d |"
    table = figures_table({"ours": figures([report([1.0, 1.0])], steps_per_epoch=2)})
    assert "| ours | 1.000 (2.000) | 1.000 (2.000) |  | 1.000 (2.000) | 500 |" in table
