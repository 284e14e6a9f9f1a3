"""Dynamic weights: the hypervolume against brute force, mirror descent, and a front that fixed weights cannot reach."""

import itertools
import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline_api.methods.shaping.weights import GradientWeighting, HypervolumeWeighting
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import Evidence, apply_shaping
from plumbline_trainer.shaping.weights import MOST_POINTS, added_volume, hypervolume, mirror_descent

HYPERVOLUME = HypervolumeWeighting(objectives=[{"component": "one"}, {"component": "two"}])


def rollout_of(one, two, rewards=None, **more):
    count = len(one)
    components = {"one": torch.tensor(one).double(), "two": torch.tensor(two).double()}
    return judged([1.0] * count if rewards is None else rewards, [0] * count, components=components, **more)


def by_inclusion_and_exclusion(points, reference):
    """The same volume another way: the boxes of all subsets with alternating signs."""
    volume = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            corner = [min(values) for values in zip(*subset, strict=True)]
            box = math.prod(max(x - r, 0.0) for x, r in zip(corner, reference, strict=True))
            volume += box if size % 2 else -box
    return volume


def test_hypervolume_by_hand():
    # boxes 1 x 3 and 2 x 1 and 3 x 0.5 share their corners: 3 + 1 + 0.5
    assert hypervolume([[1, 3], [2, 1], [3, 0.5]], [0, 0]) == pytest.approx(4.5)
    assert hypervolume([[2, 2], [1, 1]], [0, 0]) == 4
    assert hypervolume([[-1, 5]], [0, 0]) == 0
    assert hypervolume([], [0, 0]) == 0


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(st.integers(-2, 6), min_size=width, max_size=width), min_size=1, max_size=6)
    )
)
def test_hypervolume_is_that_of_inclusion_and_exclusion(points):
    reference = [0.0] * len(points[0])
    assert hypervolume(points, reference) == pytest.approx(by_inclusion_and_exclusion(points, reference))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12)), min_size=1, max_size=12))
def test_in_two_dimensions_it_is_the_number_of_unit_squares_under_the_points(points):
    squares = sum(any(x > column and y > row for x, y in points) for column in range(12) for row in range(12))
    assert hypervolume(points, [0, 0]) == pytest.approx(squares)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-2, 6), min_size=3, max_size=3), min_size=1, max_size=6))
def test_added_volume_is_the_difference(points):
    new, *others = points
    expected = hypervolume(points, [0, 0, 0]) - hypervolume(others, [0, 0, 0])
    assert added_volume(new, others, [0, 0, 0]) == pytest.approx(expected, abs=1e-9)


def test_a_rollout_that_adds_volume_counts_more():
    after, states, _ = apply_shaping([HYPERVOLUME], rollout_of([0.5], [0.5]), {})
    assert float(after.rewards[0]) == pytest.approx(0.5 + 1.5 * math.tanh(0.25))
    worse, states, _ = apply_shaping([HYPERVOLUME], rollout_of([0.4], [0.5]), states)
    assert float(worse.rewards[0]) == 0.5
    better, states, metrics = apply_shaping([HYPERVOLUME], rollout_of([0.5], [1.0]), states)
    assert float(better.rewards[0]) == pytest.approx(0.5 + 1.5 * math.tanh(0.25))
    assert states == {"hypervolumeWeighting": {"front": [[0.5, 1.0]]}}
    assert metrics["shaping/hypervolumeWeighting/hypervolume"].value == 0.5


def test_means_are_those_of_valid_completions():
    rollout = rollout_of([0.5, math.nan], [1.0, 9.0], valid=[True, False])
    _, states, _ = apply_shaping([HYPERVOLUME], rollout, {})
    assert states["hypervolumeWeighting"]["front"] == [[0.5, 1.0]]
    nothing = rollout_of([math.nan], [0.0], valid=[False])
    assert apply_shaping([HYPERVOLUME], nothing, states)[1] == states


def test_the_front_keeps_a_limited_number_of_points():
    states: dict = {}
    order = list(range(1, 61))
    random.Random(0).shuffle(order)
    for place in order:
        _, states, _ = apply_shaping([HYPERVOLUME], rollout_of([place / 60], [1 - place / 61]), states)
    front = states["hypervolumeWeighting"]["front"]
    assert len(front) == MOST_POINTS
    everything = hypervolume([[place / 60, 1 - place / 61] for place in order], [0, 0])
    assert hypervolume(front, [0, 0]) > 0.97 * everything
    assert json.loads(json.dumps(states)) == states


def products_of(**gradients):
    vectors = {name: torch.tensor(value, dtype=torch.float64) for name, value in gradients.items()}
    return {one: {two: float(first @ second) for two, second in vectors.items()} for one, first in vectors.items()}


def test_mirror_descent_by_hand():
    # influences: <a, a + b> = 1 + 0.5, <b, a + b> = 0.5 + 0.25; mean squared norm 0.625
    weights = mirror_descent({"a": 0.5, "b": 0.5}, products_of(a=[1, 0], b=[0.5, 0]), rate=0.1)
    raised = [math.exp(0.1 * 1.5 / 0.625), math.exp(0.1 * 0.75 / 0.625)]
    assert list(weights.values()) == pytest.approx([value / sum(raised) for value in raised])


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=2), min_size=2, max_size=5),
    st.floats(0.01, 100),
    st.sampled_from([0.0, 0.05]),
)
def test_weights_stay_on_the_simplex_whatever_the_gradients(gradients, rate, least):
    named = {f"c{index}": gradient for index, gradient in enumerate(gradients)}
    weights = dict.fromkeys(named, 1 / len(named))
    for _ in range(5):
        weights = mirror_descent(weights, products_of(**named), rate, least)
    assert sum(weights.values()) == pytest.approx(1)
    assert all(least * (1 - 1e-9) <= weight <= 1 + 1e-9 for weight in weights.values())


def test_the_scale_of_gradients_does_not_matter():
    small = mirror_descent({"a": 0.3, "b": 0.7}, products_of(a=[1, 2], b=[-1, 1]), rate=0.5)
    large = mirror_descent({"a": 0.3, "b": 0.7}, products_of(a=[100, 200], b=[-100, 100]), rate=0.5)
    assert list(small.values()) == pytest.approx(list(large.values()))


def test_gradient_weighting_adds_the_weighted_components_and_remembers_the_weights():
    parameters = GradientWeighting(components=["one", "two"], learning_rate=0.1)
    evidence = Evidence(gradient_products=products_of(one=[1, 0], two=[0.5, 0]))
    after, states, _ = apply_shaping([parameters], rollout_of([1, 0], [0, 1], [10.0, 20.0]), {}, evidence)
    weights = mirror_descent({"one": 0.5, "two": 0.5}, evidence.gradient_products, 0.1)
    assert states["gradientWeighting"]["weights"] == weights
    assert after.rewards.tolist() == pytest.approx([10 + weights["one"], 20 + weights["two"]])
    again, _, _ = apply_shaping([parameters], rollout_of([1, 0], [0, 1]), json.loads(json.dumps(states)), evidence)
    assert float(again.rewards[0] - 1) == pytest.approx(mirror_descent(weights, evidence.gradient_products, 0.1)["one"])


def test_gradient_weighting_says_what_is_missing():
    with pytest.raises(ValueError, match="gradients"):
        apply_shaping([GradientWeighting(components=["one", "two"])], rollout_of([1], [1]), {})


# Two objectives of one parameter each, learned at the same time: one is easy, and saturates long before the other.
def train(dynamic, steps=400, rate=0.05):
    """Values of both objectives sigmoid(8 x) and sigmoid(y - 2) after ascent on their weighted sum."""
    parameters = torch.zeros(2, dtype=torch.float64)
    weights = {"one": 0.9, "two": 0.1}
    for _ in range(steps):
        first, second = torch.sigmoid(8 * parameters[0]), torch.sigmoid(parameters[1] - 2)
        gradients = torch.stack([8 * first * (1 - first), second * (1 - second)])
        if dynamic:
            squares = gradients.square()
            products = {"one": {"one": float(squares[0]), "two": 0.0}, "two": {"one": 0.0, "two": float(squares[1])}}
            weights = mirror_descent(weights, products, 0.1, least=0.05)
        parameters = parameters + rate * torch.tensor(list(weights.values())) * gradients
    return torch.sigmoid(8 * parameters[0]), torch.sigmoid(parameters[1] - 2)


def test_weights_move_on_to_what_can_still_be_learned():
    fixed, dynamic = train(dynamic=False), train(dynamic=True)
    assert hypervolume([dynamic], [0, 0]) > 2 * hypervolume([fixed], [0, 0])
    assert dynamic[0] > 0.9
