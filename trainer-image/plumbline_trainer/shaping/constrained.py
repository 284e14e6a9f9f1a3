"""Several rewards of which some are to reach a threshold rather than to grow: Lagrange multipliers as weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from plumbline_api.methods.shaping.constrained import Constrained, Constraint, ThresholdSearch
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.nelder_mead import Simplex
from plumbline_trainer.shaping.registry import SHAPINGS, Evidence, Shaped, State


@SHAPINGS.implements(Constrained)
def constrained(parameters: Constrained, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """(1 - sum |m_i| / K) R + sum s_i m_i (r_i - theta_i) / K over K constraints with multipliers m_i.

    Moskovitz et al. 2023, arXiv:2310.04373. s is 1 where the mean of r is to be at least, or equal to, theta, and -1
    where it is to be at most theta. An inequality has m = sigmoid(x), which begins at 1/2 (mu-PPO); an equality has
    m = tanh(x), which begins at 0 and may become negative (xi-PPO). With one constraint this is (1 - |m|) times the
    Lagrangian R + nu s (r - theta) with nu = m / (1 - |m|), so every multiplier of the Lagrangian from 0, or from minus
    infinity, to infinity is reached while the reward stays bounded.

    After a rollout x changes by learningRate s (theta - mean of r), plus momentum times its last change. That is mirror
    ascent of the dual: x is the mirror image of m under the entropy of a coin, so steps in x need no derivative of the
    sigmoid, which would freeze a multiplier near its bounds. State: x and last change of each component. A rollout
    without a valid completion changes nothing.

    With a search the thresholds are those of its present candidate (`_searched`), and its state is kept beside.
    """
    raw, last = dict(state.get("raw", {})), dict(state.get("last", {}))
    task, rewards = 1.0, torch.zeros_like(rollout.rewards)
    metrics: dict[str, Metric] = {}
    count = len(parameters.constraints)
    thresholds = {one.component: one.threshold for one in parameters.constraints}
    search = {}
    if parameters.threshold_search is not None:
        held = state.get("search") or _begun(parameters.threshold_search, thresholds)
        simplex = Simplex.from_document(held["simplex"])
        for kind, point in (("threshold", simplex.asked), ("best_threshold", simplex.best)):
            metrics |= {f"{kind}/{name}": Metric(value, 1.0) for name, value in zip(thresholds, point, strict=True)}
        thresholds = dict(zip(thresholds, simplex.asked, strict=True))
        search = {"search": _searched(parameters.threshold_search, rollout, held)}
    for constraint in parameters.constraints:
        threshold = thresholds[constraint.component]
        name, sign = constraint.component, -1.0 if constraint.kind == "atMost" else 1.0
        multiplier = bounded(constraint, raw.get(name, 0.0))
        values = torch.where(rollout.valid, rollout.components[name], threshold)
        rewards = rewards + sign * multiplier / count * (values - threshold)
        task -= abs(multiplier) / count
        metrics[f"multiplier/{name}"] = Metric(multiplier, 1.0)
        if rollout.valid.any():
            gap = threshold - float(values[rollout.valid].mean())
            last[name] = parameters.momentum * last.get(name, 0.0) + parameters.learning_rate * sign * gap
            raw[name] = raw.get(name, 0.0) + last[name]
            metrics[f"gap/{name}"] = Metric(-gap, 1.0)
    after = {"raw": raw, "last": last, **search}
    return Shaped(rewards + task * rollout.rewards, after, {**metrics, "task": Metric(task, 1.0)})


def _begun(search: ThresholdSearch, thresholds: Mapping[str, float]) -> dict[str, Any]:
    simplex = Simplex.around(list(thresholds.values()), search.step, (search.lowest, search.highest))
    return {"simplex": simplex.to_document(), "rollouts": 0, "total": 0.0}


def _searched(search: ThresholdSearch, rollout: JudgedRollout, held: Mapping[str, Any]) -> dict[str, Any]:
    """The search after a rollout under its present candidate.

    Moskovitz et al. 2023 find thresholds by a gradient-free method within one run: here by that of Nelder and Mead,
    whose candidates follow each other without a new start of the policy. A candidate's value is the mean of what is
    really wanted over the later half of its `every` rollouts, those in which the policy has followed.
    """
    if not rollout.valid.any():
        return dict(held)
    rollouts, total = held["rollouts"] + 1, held["total"]
    unmeasured = search.every // 2
    if rollouts > unmeasured:
        total += float(rollout.components[search.component][rollout.valid].mean())
    if rollouts < search.every:
        return {**held, "rollouts": rollouts, "total": total}
    simplex = Simplex.from_document(held["simplex"]).told(-total / (search.every - unmeasured))
    return {"simplex": simplex.to_document(), "rollouts": 0, "total": 0.0}


def bounded(constraint: Constraint, raw: float) -> float:
    """The multiplier: tanh of `raw` for an equality, else its sigmoid."""
    if constraint.kind == "equal":
        return math.tanh(raw)
    return (1 + math.tanh(raw / 2)) / 2
