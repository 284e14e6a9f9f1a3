"""Feasible learning: how multipliers move, where they settle, and what that does to the worst rows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plumbline_api.methods.aggregation import Feasible, LossAggregation, MeanLoss, ResilientFeasible
from plumbline_trainer.objectives.feasible import (
    MULTIPLIER_SLOPES,
    initial_multipliers,
    row_weights,
    updated_multipliers,
)
from tests.trainer.objectives.records import vector

POINTS = torch.cat([torch.linspace(-1, 1, 18, dtype=torch.float64), vector(4.0, 4.5)])
"""A location is fitted to these by squared errors: most rows agree, two do not."""


def descend(aggregation: LossAggregation, points: torch.Tensor, steps: int) -> tuple[float, torch.Tensor, torch.Tensor]:
    """A location fitted to `points` [n] under `aggregation`: it, the losses and the multipliers of all rows [n]."""
    location = torch.zeros((), dtype=torch.float64)
    multipliers = initial_multipliers(len(points)).double()
    for _ in range(steps):
        errors = location - points
        gradient = (row_weights(aggregation, multipliers) * 2 * errors).mean()
        multipliers = updated_multipliers(aggregation, multipliers, errors.square())
        location = location - 0.2 * gradient
    return float(location), (location - points).square(), multipliers


def test_one_step_by_hand() -> None:
    """eta = 0.5, epsilon = 1: losses 3 and 0.5 add 1 and -0.25; resilient with alpha 2 takes 0.5 lambda / 2 off."""
    multipliers, losses = vector(1, 1, 0.1), vector(3, 0.5, 0.5)
    feasible = Feasible(epsilon=1, dual_learning_rate=0.5)
    assert updated_multipliers(feasible, multipliers, losses).tolist() == pytest.approx([2, 0.75, 0])
    resilient = ResilientFeasible(epsilon=1, dual_learning_rate=0.5, alpha=2)
    assert updated_multipliers(resilient, multipliers, losses).tolist() == pytest.approx([1.75, 0.5, 0])


@pytest.mark.parametrize(
    "aggregation",
    [Feasible(epsilon=0.5, dual_learning_rate=0.1), ResilientFeasible(epsilon=0.5, dual_learning_rate=0.1, alpha=50)],
    ids=lambda aggregation: aggregation.member_key,
)
def test_multipliers_of_satisfied_rows_fall_to_zero_and_those_of_violated_rows_grow(aggregation: Feasible) -> None:
    losses, multipliers = vector(0.1, 0.49, 0.9), initial_multipliers(3).double()
    visited = [multipliers]
    for _ in range(1200):
        visited.append(updated_multipliers(aggregation, visited[-1], losses))
    satisfied, barely, violated = torch.stack(visited).unbind(1)
    assert satisfied[-1] == 0 and barely[-1] == 0
    assert all(later <= earlier for earlier, later in pairwise(satisfied.tolist()))
    assert all(later > earlier for earlier, later in pairwise(violated[:200].tolist()))


@given(st.floats(0, 5), st.floats(0, 2), st.floats(0.05, 10), st.floats(0, 10))
def test_resilient_multipliers_settle_at_the_price_of_their_excess(
    loss: float, epsilon: float, alpha: float, start: float
) -> None:
    aggregation = ResilientFeasible(epsilon=epsilon, dual_learning_rate=alpha / 2, alpha=alpha)
    multipliers = vector(start)
    for _ in range(80):
        multipliers = updated_multipliers(aggregation, multipliers, vector(loss))
    assert multipliers.item() == pytest.approx(alpha * max(0.0, loss - epsilon), rel=1e-6, abs=1e-6)


def test_resilient_feasibility_minimises_squared_excesses() -> None:
    """At rest the model minimises sum_i max(0, loss_i - epsilon)^2, here found by trying locations on a grid."""
    grid = torch.linspace(-2, 5, 70_001, dtype=torch.float64)
    excess = ((grid[:, None] - POINTS).square() - 1.0).clamp(min=0)
    best = float(grid[excess.square().sum(dim=1).argmin()])
    location, losses, multipliers = descend(
        ResilientFeasible(epsilon=1, dual_learning_rate=0.02, alpha=0.2), POINTS, steps=1500
    )
    assert location == pytest.approx(best, abs=1e-3)
    torch.testing.assert_close(multipliers, 0.2 * (losses - 1).clamp(min=0), rtol=1e-3, atol=1e-3)


def test_slack_that_costs_much_is_as_feasible_learning_and_slack_that_is_free_keeps_no_multiplier() -> None:
    multipliers, losses = vector(1, 2), vector(3, 0.2)
    strict = updated_multipliers(Feasible(epsilon=1), multipliers, losses)
    dear = updated_multipliers(ResilientFeasible(epsilon=1, alpha=1e6), multipliers, losses)
    torch.testing.assert_close(dear, strict, rtol=1e-5, atol=1e-5)
    cheap = ResilientFeasible(epsilon=1, dual_learning_rate=1e-4, alpha=1e-4)
    torch.testing.assert_close(updated_multipliers(cheap, multipliers, losses), vector(2e-4, 0), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    "aggregation",
    [Feasible(epsilon=7.6, dual_learning_rate=0.02), ResilientFeasible(epsilon=1, dual_learning_rate=0.02, alpha=0.2)],
    ids=lambda aggregation: aggregation.member_key,
)
def test_the_worst_rows_fare_better_than_under_the_mean(aggregation: Feasible) -> None:
    _, plain, _ = descend(MeanLoss(), POINTS, steps=1000)
    _, bounded, _ = descend(aggregation, POINTS, steps=1000)
    assert bounded.quantile(0.95) < 0.8 * plain.quantile(0.95)
    assert plain.mean() < bounded.mean(), "which is what it costs"


def test_a_bound_that_can_be_met_is_met_by_every_row() -> None:
    """The range of the points is 5.5, so a location within 2.757 = sqrt(7.6) of all of them exists."""
    _, losses, multipliers = descend(Feasible(epsilon=7.6, dual_learning_rate=0.02), POINTS, steps=5000)
    assert losses.max() <= 7.6 + 1e-2
    assert multipliers[5:15].tolist() == [0] * 10, "rows in the middle are satisfied by far"


def test_the_mean_weighs_all_rows_the_same_for_ever() -> None:
    multipliers, losses = initial_multipliers(3), torch.tensor([0.0, 5.0, 1e6])
    assert row_weights(MeanLoss(), multipliers).tolist() == [1, 1, 1]
    assert updated_multipliers(MeanLoss(), multipliers, losses).tolist() == [1, 1, 1]
    location, _, _ = descend(MeanLoss(), POINTS, steps=1000)
    assert location == pytest.approx(float(POINTS.mean()))


def test_the_first_step_is_that_of_the_mean() -> None:
    assert row_weights(Feasible(epsilon=0.5), initial_multipliers(2)).tolist() == [1, 1]


def test_no_gradient_reaches_multipliers_or_flows_from_them() -> None:
    losses = vector(1, 2).requires_grad_()
    multipliers = vector(1, 1).requires_grad_()
    for aggregation in (MeanLoss(), Feasible(epsilon=0.5), ResilientFeasible(epsilon=0.5)):
        assert not updated_multipliers(aggregation, multipliers, losses).requires_grad
        assert not row_weights(aggregation, multipliers).requires_grad


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(-2, 4)), min_size=2, max_size=8), st.integers(1, 7))
def test_a_row_s_multiplier_depends_on_that_row_alone(rows: list[tuple[float, float]], cut: int) -> None:
    multipliers, losses = (vector(*column) for column in zip(*rows, strict=True))
    aggregation = ResilientFeasible(epsilon=0.5)
    whole = updated_multipliers(aggregation, multipliers, losses)
    parts = [
        updated_multipliers(aggregation, multipliers[part], losses[part]) for part in (slice(cut), slice(cut, None))
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_losses_of_lower_precision_do_not_lower_that_of_the_multipliers() -> None:
    updated = updated_multipliers(Feasible(epsilon=0.5), torch.ones(1), torch.tensor([1.0], dtype=torch.bfloat16))
    assert updated.dtype == torch.float32
    assert updated.item() == pytest.approx(1.05)


def test_a_step_that_would_jump_over_the_resting_point_is_refused() -> None:
    with pytest.raises(ValidationError, match="dualLearningRate must not be above alpha"):
        ResilientFeasible(epsilon=0.5, dual_learning_rate=2, alpha=1)


def test_every_aggregation_of_the_api_is_implemented() -> None:
    assert MULTIPLIER_SLOPES.missing() == []


@pytest.mark.parametrize("parameters", [MeanLoss(), Feasible(epsilon=0), ResilientFeasible(epsilon=0)])
def test_extreme_losses_stay_finite(parameters: Any) -> None:
    updated = updated_multipliers(parameters, vector(1, 1), vector(1e4, -1e4))
    assert updated.isfinite().all() and (updated >= 0).all()
    assert not math.isnan(float(row_weights(parameters, updated).sum()))
