"""Weights of the reward's components that change while the policy learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from plumbline_api.methods.shaping.weights import GradientWeighting, HypervolumeWeighting
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Evidence, Shaped, State

Point = Sequence[float]

MOST_POINTS = 32
"""Points of the front that are remembered; beyond, the one that adds least is forgotten."""


@SHAPINGS.implements(HypervolumeWeighting)
def hypervolume_weighting(
    parameters: HypervolumeWeighting, rollout: JudgedRollout, state: State, evidence: Evidence
) -> Shaped:
    """(least + gain tanh(h)) R, where h is the volume that the means of this rollout add to that of those before.

    Lu et al. 2025, arXiv:2509.11452: a mean vector spans with the reference point a box, and the hypervolume is the
    volume of the union of all boxes. Larger rewards are larger steps where a baseline leaves their scale, as with
    `groupRelative: {normalize: none}` and `leaveOneOut`; a job whose advantages divide by a deviation is refused, since
    that undoes them. State: the
    mean vectors of rollouts that no other one exceeds in everything.
    """
    if not rollout.valid.any():
        return Shaped(rollout.rewards, state)
    means = [float(rollout.components[one.component][rollout.valid].mean()) for one in parameters.objectives]
    reference = [objective.reference for objective in parameters.objectives]
    front = [list(point) for point in state.get("front", [])]
    added = added_volume(means, front, reference)
    factor = parameters.least + parameters.gain * math.tanh(added)
    if added > 0:
        front = [point for point in front if not _covers(means, point)] + [means]
    if len(front) > MOST_POINTS:
        front.remove(min(front, key=lambda one: added_volume(one, [p for p in front if p is not one], reference)))
    return Shaped(
        factor * rollout.rewards,
        {"front": front},
        {"factor": Metric(factor, 1.0), "hypervolume": Metric(hypervolume(front, reference), 1.0)},
    )


@SHAPINGS.implements(GradientWeighting)
def gradient_weighting(
    parameters: GradientWeighting, rollout: JudgedRollout, state: State, evidence: Evidence
) -> Shaped:
    """R + sum w_i r_i with the weights of `mirror_descent`, updated by the gradients of this very rollout.

    State: the weights by component, all equal before the first rollout.
    """
    if evidence.gradient_products is None:
        raise ValueError("gradientWeighting needs the inner products of the components' gradients")
    names = parameters.components
    before = state.get("weights", {})
    weights = mirror_descent(
        {name: before.get(name, 1 / len(names)) for name in names},
        evidence.gradient_products,
        parameters.learning_rate,
        parameters.least,
    )
    rewards = rollout.rewards.clone()
    for name in names:
        rewards += weights[name] * torch.where(rollout.valid, rollout.components[name], 0.0)
    return Shaped(
        rewards, {"weights": weights}, {f"weight/{name}": Metric(weight, 1.0) for name, weight in weights.items()}
    )


def mirror_descent(
    weights: Mapping[str, float], products: Mapping[str, Mapping[str, float]], rate: float, least: float = 0.0
) -> dict[str, float]:
    """w_i e^(rate I_i) / Z with the influence I_i = <g_i, sum_k g_k> / (mean of |g_k|^2), lifted to at least `least`.

    Lu et al. 2025, arXiv:2509.11452. To first order <g_i, sum_k g_k> is how much all objectives together gain by a step
    along the gradient of objective i. Dividing by the mean squared norm makes the rate independent of the scale of
    rewards and of the size of the model. The result is positive and sums to 1.
    """
    scale = sum(products[name][name] for name in weights) / len(weights)
    influence = {name: sum(products[name][other] for other in weights) / scale if scale else 0.0 for name in weights}
    logits = {name: math.log(max(weight, 1e-300)) + rate * influence[name] for name, weight in weights.items()}
    highest = max(logits.values())
    raised = {name: math.exp(logit - highest) for name, logit in logits.items()}
    total = sum(raised.values())
    return {name: least + (1 - len(weights) * least) * value / total for name, value in raised.items()}


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume of the union of the boxes between `reference` and each point that exceeds it in every coordinate.

    Slices along the first coordinate, and within each slice the same with one coordinate less: the slice up to a
    point's first coordinate belongs to all points from it on.
    """
    inside = sorted(tuple(point) for point in points if all(x > r for x, r in zip(point, reference, strict=True)))
    if not inside:
        return 0.0
    if len(reference) == 1:
        return inside[-1][0] - reference[0]
    volume, before = 0.0, reference[0]
    for index, point in enumerate(inside):
        if point[0] > before:
            volume += (point[0] - before) * hypervolume([later[1:] for later in inside[index:]], reference[1:])
            before = point[0]
    return volume


def added_volume(point: Point, points: Sequence[Point], reference: Point) -> float:
    """The volume of the box of `point` that no box of `points` covers; at least 0."""
    own = hypervolume([point], reference)
    common = [[min(x, y) for x, y in zip(other, point, strict=True)] for other in points]
    return max(own - hypervolume(common, reference), 0.0)


def _covers(point: Point, other: Point) -> bool:
    return all(x >= y for x, y in zip(point, other, strict=True))
