"""Several rewards of which some are to reach a threshold rather than to grow: Lagrange multipliers as weights."""

from __future__ import annotations

import math

import torch

from plumbline_api.methods.shaping.constrained import Constrained, Constraint
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
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
    """
    raw, last = dict(state.get("raw", {})), dict(state.get("last", {}))
    task, rewards = 1.0, torch.zeros_like(rollout.rewards)
    metrics: dict[str, Metric] = {}
    count = len(parameters.constraints)
    for constraint in parameters.constraints:
        name, sign = constraint.component, -1.0 if constraint.kind == "atMost" else 1.0
        multiplier = bounded(constraint, raw.get(name, 0.0))
        values = torch.where(rollout.valid, rollout.components[name], constraint.threshold)
        rewards = rewards + sign * multiplier / count * (values - constraint.threshold)
        task -= abs(multiplier) / count
        metrics[f"multiplier/{name}"] = Metric(multiplier, 1.0)
        if rollout.valid.any():
            gap = constraint.threshold - float(values[rollout.valid].mean())
            last[name] = parameters.momentum * last.get(name, 0.0) + parameters.learning_rate * sign * gap
            raw[name] = raw.get(name, 0.0) + last[name]
            metrics[f"gap/{name}"] = Metric(-gap, 1.0)
    return Shaped(rewards + task * rollout.rewards, {"raw": raw, "last": last}, {**metrics, "task": Metric(task, 1.0)})


def bounded(constraint: Constraint, raw: float) -> float:
    """The multiplier: tanh of `raw` for an equality, else its sigmoid."""
    if constraint.kind == "equal":
        return math.tanh(raw)
    return (1 + math.tanh(raw / 2)) / 2
