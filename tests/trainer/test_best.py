"""Which evaluation is the best one."""

from __future__ import annotations

import json
import math

import pytest

from plumbline_api.running import BestCheckpoint
from plumbline_trainer.best import Best, better, restored
from plumbline_trainer.failures import ConfigError

MOST = BestCheckpoint(metric="accuracy", mode="max")
LEAST = BestCheckpoint(metric="loss", mode="min")


def after(rule: BestCheckpoint, *values: float) -> Best | None:
    """The best of evaluations after 1, 2, ... steps."""
    best = None
    for step, value in enumerate(values, start=1):
        best = better(best, rule, step, {rule.metric: value, "other": float(step)})
    return best


@pytest.mark.parametrize(
    ("rule", "values", "step"),
    [
        (MOST, (0.5, 0.7, 0.6), 2),
        (LEAST, (0.5, 0.7, 0.4, 0.6), 3),
        (MOST, (0.5, 0.7, 0.7), 2),
        (LEAST, (0.5, 0.5), 1),
        (MOST, (math.nan, 0.2, math.inf), 2),
        (LEAST, (-math.inf, 0.2, math.nan), 2),
    ],
)
def test_the_best_is_the_first_of_the_best_finite_values(
    rule: BestCheckpoint, values: tuple[float, ...], step: int
) -> None:
    best = after(rule, *values)
    assert best is not None
    assert (best.step, best.value) == (step, values[step - 1])
    assert best.metrics["other"] == step


def test_nothing_finite_is_no_best() -> None:
    assert after(MOST, math.nan, math.inf) is None


def test_the_model_before_the_first_step_has_no_checkpoint() -> None:
    assert better(None, MOST, 0, {"accuracy": 1.0}) is None


@pytest.mark.parametrize("step", [0, 5])
def test_an_unknown_metric_is_refused_with_the_known_ones(step: int) -> None:
    with pytest.raises(ConfigError, match=r"'accuracy' is no metric of the evaluation; these are: loss, win_accuracy"):
        better(None, MOST, step, {"win_accuracy": 0.5, "loss": 1.0})


def test_it_comes_back_from_a_checkpoint_exactly() -> None:
    best = after(MOST, 0.1, 1 / 3)
    assert best is not None
    assert restored(json.loads(json.dumps(best.to_document())), MOST) == best


@pytest.mark.parametrize("rule", [None, LEAST, BestCheckpoint(metric="accuracy", mode="min")])
def test_values_by_another_rule_are_not_compared(rule: BestCheckpoint | None) -> None:
    best = after(MOST, 0.1)
    assert best is not None
    assert restored(best.to_document(), rule) is None


def test_no_best_so_far_comes_back_as_none() -> None:
    assert restored(None, MOST) is None
