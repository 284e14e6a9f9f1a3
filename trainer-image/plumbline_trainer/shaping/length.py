"""Rewards that depend on how long a completion is.

Where a paper's formula gives a right answer another number than 1, that number is put in the place of the 1: the
total changes by (number - 1) for right completions, so components besides the right answer, such as the format, stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.shaping.length import (
    CosineLength,
    ExactLengthTarget,
    GatedLength,
    KimiLength,
    LinearLength,
    MaximumLengthTarget,
    SoftOverlong,
    Truncated,
)
from plumbline_trainer.failures import DataError
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Evidence, Shaped, State


@SHAPINGS.implements(LinearLength)
def linear_length(parameters: LinearLength, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R - coefficient |y| / L with the limit L, for all completions or the right ones."""
    loss = parameters.coefficient * rollout.lengths.double() / _limit(rollout)
    return Shaped(rollout.rewards - torch.where(rollout.correct | (not parameters.only_correct), loss, 0.0))


@SHAPINGS.implements(CosineLength)
def cosine_length(parameters: CosineLength, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """b + (a - b) (1 + cos(pi |y| / L)) / 2 in place of the 1 of a right answer, where a is the reward of length 0 and
    b that of the limit L; Yeo et al. 2025, arXiv:2502.03373.

    a and b are those of right or of wrong completions. A completion that was cut off gets `exceeded`, right or wrong.
    """
    falling = (1 + torch.cos(math.pi * rollout.lengths.double() / _limit(rollout))) / 2

    def between(shortest: float, longest: float) -> Tensor:
        return longest + (shortest - longest) * falling

    right = between(parameters.correct_shortest, parameters.correct_longest)
    wrong = between(parameters.wrong_shortest, parameters.wrong_longest)
    value = torch.where(rollout.correct, right, wrong)
    value = torch.where(rollout.truncated, parameters.exceeded, value)
    return Shaped(rollout.rewards + value - rollout.correct.double())


@SHAPINGS.implements(SoftOverlong)
def soft_overlong(parameters: SoftOverlong, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R - penalty min(1, max(0, |y| - (L - B)) / B) with the limit L and the buffer B.

    DAPO (Yu et al. 2025, arXiv:2503.14476, eq. 13). The paper's limit lies before that of generation, here they are
    the same, so the case above the limit does not arise.
    """
    limit = _limit(rollout)
    buffer = parameters.buffer_fraction * limit
    into = ((rollout.lengths.double() - (limit - buffer)) / buffer).clamp(0, 1)
    return Shaped(rollout.rewards - parameters.penalty * into, metrics={"share": _share(into > 0, rollout.valid)})


@SHAPINGS.implements(Truncated)
def truncated(parameters: Truncated, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """Completions that were cut off: without reward (and so out of loss and baselines), R + value, or value."""
    if parameters.action == "exclude":
        return Shaped(rollout.rewards, valid=rollout.valid & ~rollout.truncated)
    value = rollout.rewards + parameters.value if parameters.action == "add" else parameters.value
    return Shaped(torch.where(rollout.truncated, value, rollout.rewards))


@SHAPINGS.implements(KimiLength)
def kimi_length(parameters: KimiLength, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R + weight v with v = 1/2 - (|y| - min) / (max - min) for right completions and min(0, v) for wrong ones.

    Shortest and longest are those of the group. In a group of one length, and before the start, v is 0 (Kimi Team
    2025, arXiv:2501.12599, sec. 2.3.3).
    """
    if rollout.step < parameters.start_fraction * rollout.steps:
        return Shaped(rollout.rewards)
    group = Groups(rollout.groups, rollout.valid)
    lengths = rollout.lengths.double()
    shortest, longest = group.lowest(lengths), group.highest(lengths)
    differs = rollout.valid & (longest > shortest)
    value = 0.5 - (lengths - shortest) / torch.where(differs, longest - shortest, 1.0)
    value = torch.where(rollout.correct, value, value.clamp(max=0))
    return Shaped(rollout.rewards + parameters.weight * torch.where(differs, value, 0.0))


@SHAPINGS.implements(ExactLengthTarget)
def exact_length_target(
    parameters: ExactLengthTarget, rollout: JudgedRollout, state: State, evidence: Evidence
) -> Shaped:
    """R - coefficient | target - |y| |; L1 (Aggarwal and Welleck 2025, arXiv:2503.04697, LCPO-Exact)."""
    target = _targets(rollout, parameters.tokens, parameters.column)
    distance = (target - rollout.lengths).abs()
    return Shaped(
        rollout.rewards - parameters.coefficient * distance.nan_to_num(0.0),
        metrics={"distance": Metric.mean_of(distance.nan_to_num(0.0), rollout.valid & ~target.isnan())},
    )


@SHAPINGS.implements(MaximumLengthTarget)
def maximum_length_target(
    parameters: MaximumLengthTarget, rollout: JudgedRollout, state: State, evidence: Evidence
) -> Shaped:
    """clip(coefficient (target - |y|) + offset, 0, 1) in place of the 1 of a right answer; L1 (Aggarwal and Welleck
    2025, arXiv:2503.04697, LCPO-Max)."""
    target = _targets(rollout, parameters.tokens, parameters.column)
    value = (parameters.coefficient * (target - rollout.lengths) + parameters.offset).clamp(0, 1)
    counted = rollout.correct & ~target.isnan()
    return Shaped(
        torch.where(counted, rollout.rewards + value - 1, rollout.rewards),
        metrics={"longer": _share(rollout.lengths > target, rollout.valid & ~target.isnan())},
    )


@SHAPINGS.implements(GatedLength)
def gated_length(parameters: GatedLength, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R - alpha sigmoid((|y| - mean) / deviation) for right completions of the groups that are mostly right.

    GRPO-lambda (Dai, Liu and Si 2025, arXiv:2505.18086). Mean and deviation are over the group's right completions;
    the deviation divides by n, and where it is 0 all of them lose alpha / 2 alike. With `topFraction` f of m groups the
    ceil(f m) with the greatest share of right completions are gated, and those that tie with the last of them, so that
    no order of groups matters.
    """
    right = rollout.correct & rollout.valid
    group = Groups(rollout.groups, rollout.valid)
    ratio = group.mean(right.double())
    gated = ratio >= _least_ratio(parameters, rollout, ratio)
    of_right = Groups(rollout.groups, right)
    lengths = rollout.lengths.double()
    centred = lengths - of_right.mean(lengths)
    deviation = of_right.mean(centred.square()).sqrt()
    loss = parameters.alpha * torch.sigmoid(centred / torch.where(deviation > 0, deviation, 1.0))
    return Shaped(
        rollout.rewards - torch.where(right & gated, loss, 0.0),
        metrics={
            "gated": _share(gated & (ratio > 0), rollout.valid),
            "length_of_right": Metric.mean_of(lengths, right),
        },
    )


def _least_ratio(parameters: GatedLength, rollout: JudgedRollout, ratio: Tensor) -> float:
    if parameters.min_correct_ratio is not None:
        return parameters.min_correct_ratio
    ratios = {int(name): float(value) for name, value in zip(rollout.groups, ratio, strict=True)}
    ranked = sorted(ratios.values(), reverse=True)
    # the slack: 0.2 of 5 groups is 1 group, though 0.2 * 5 may be above 1 in binary
    return ranked[math.ceil(parameters.top_fraction * len(ranked) - 1e-9) - 1] if ranked else 0.0


def _limit(rollout: JudgedRollout) -> int:
    return max(rollout.max_completion_tokens, 1)


def _share(which: Tensor, valid: Tensor) -> Metric:
    return Metric.mean_of(which.double(), valid)


def _targets(rollout: JudgedRollout, tokens: int | None, column: str | None) -> Tensor:
    """[N] float64: the length that each completion is to have; NaN where its row names none."""
    if column is None:
        return torch.full(rollout.rewards.shape, float(tokens or 0), dtype=torch.float64)
    return torch.tensor([_target(row, column) for row in rollout.columns], dtype=torch.float64)


def _target(row: Mapping[str, Any], column: str) -> float:
    value = row.get(column)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise DataError(f"column {column}: {value!r} is no length in tokens")
    return float(value)
