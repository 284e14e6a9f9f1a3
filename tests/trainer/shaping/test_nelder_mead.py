"""The simplex search: each move by hand, minima that it must find, and the order of a reference implementation."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from plumbline_trainer.shaping.nelder_mead import Point, Simplex

ANYWHERE = (-1e9, 1e9)


def searched(function: Callable[[Point], float], start: list[float], step: float, evaluations: int) -> list[Point]:
    """The points that are asked for; the last one is the best."""
    simplex, asked = Simplex.around(start, step, ANYWHERE), []
    for _ in range(evaluations):
        asked.append(simplex.asked)
        simplex = simplex.told(function(simplex.asked))
    return [*asked, simplex.best]


def told(simplex: Simplex, *values: float) -> Simplex:
    for value in values:
        simplex = simplex.told(value)
    return simplex


def test_it_begins_with_the_start_and_a_step_along_each_axis():
    assert searched(lambda point: 0.0, [1, 2], 0.5, 3)[:3] == [(1, 2), (1.5, 2), (1, 2.5)]


BEGUN = told(Simplex.around([0, 0], 1, ANYWHERE), 1.0, 2.0, 3.0)
"""Vertices (0, 0), (1, 0) and (0, 1) from best to worst; the centroid of the first two is (1/2, 0)."""


def test_the_worst_vertex_is_reflected_first():
    assert BEGUN.asked == (1, -1)


@pytest.mark.parametrize(
    ("values", "vertices", "asked"),
    [
        ((1.5,), [(0, 0), (1, -1), (1, 0)], (0, -1)),  # in between: taken; (1, 0) is reflected at (1/2, -1/2)
        ((0.5, 0.4), [(1.5, -2), (0, 0), (1, 0)], (0.5, -2)),  # better than the best: expanded, and farther is better
        ((0.5, 0.6), [(1, -1), (0, 0), (1, 0)], (0, -1)),  # farther is not
        ((2.5, 2.5), [(0, 0), (1, 0), (0.75, -0.5)], (0.25, 0.5)),  # between the worst two: contracted outside
        ((3.0, 2.9), [(0, 0), (1, 0), (0.25, 0.5)], (0.75, -0.5)),  # no better than the worst: contracted inside
    ],
)
def test_a_trial_takes_the_place_of_the_worst_vertex(values, vertices, asked):
    after = told(BEGUN, *values)
    assert list(after.points) == vertices
    assert after.asked == asked


@pytest.mark.parametrize("values", [(2.5, 2.6), (3.0, 3.0)])
def test_where_no_trial_helps_all_move_half_the_way_to_the_best_and_are_measured_again(values):
    after = told(BEGUN, *values)
    assert after.points == ((0, 0), (0.5, 0), (0, 0.5))
    assert after.values == (1.0, None, None)
    assert after.asked == (0.5, 0)
    assert after.told(0.5).best == (0.5, 0)
    assert after.told(0.5).asked == (0, 0.5)


def test_in_one_dimension():
    begun = told(Simplex.around([0], 1, ANYWHERE), 1.0, 0.0)
    assert begun.asked == (2,)
    assert told(begun, -1.0).asked == (3,)
    assert told(begun, 0.5).asked == (1.5,)
    assert told(begun, 1.5).asked == (0.5,)


@pytest.mark.parametrize("start", [[3.0, -2.0], [0.0, 0.0]])
def test_it_finds_the_minimum_of_a_quadratic(start):
    *_, best = searched(lambda p: (p[0] - 1) ** 2 + 10 * (p[1] + 2) ** 2 + (p[0] - 1) * (p[1] + 2), start, 0.5, 120)
    assert best == pytest.approx((1, -2), abs=1e-4)


def rosenbrock(point: Point) -> float:
    return (1 - point[0]) ** 2 + 100 * (point[1] - point[0] ** 2) ** 2


def test_it_follows_a_curved_valley():
    *_, best = searched(rosenbrock, [-1.2, 1.0], 0.5, 200)
    assert best == pytest.approx((1, 1), abs=1e-3)


def test_it_asks_for_the_points_that_scipy_asks_for():
    """The 120th point of `scipy.optimize.minimize(method="Nelder-Mead")`, SciPy 1.17.1, from the same simplex."""
    *_, last, _ = searched(rosenbrock, [-1.2, 1.0], 0.5, 120)
    assert last == pytest.approx((0.9911140629832338, 0.9832288598326322), abs=1e-12)


def test_a_search_that_went_through_json_goes_on_as_if_it_had_not():
    whole = halted = Simplex.around([-1.2, 1.0], 0.5, ANYWHERE)
    for _ in range(60):
        whole = whole.told(rosenbrock(whole.asked))
        halted = Simplex.from_document(json.loads(json.dumps(halted.to_document())))
        halted = halted.told(rosenbrock(halted.asked))
        assert halted == whole


def test_points_stay_within_bounds_and_find_a_minimum_on_them():
    simplex = Simplex.around([0.4, 0.9], 0.3, (0.0, 1.0))
    assert simplex.points == ((0.4, 0.9), (0.7, 0.9), (0.4, pytest.approx(0.6)))
    for _ in range(80):
        assert all(0 <= coordinate <= 1 for coordinate in simplex.asked)
        simplex = simplex.told((simplex.asked[0] - 2) ** 2 + (simplex.asked[1] - 0.5) ** 2)
    assert simplex.best == pytest.approx((1, 0.5), abs=0.01)
