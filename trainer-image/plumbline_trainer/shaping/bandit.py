"""Rewards of a policy that plays multi-armed bandits, one pull a completion, and what it is compared with.

A row holds the number of arms, their true means and the pulls so far; the completion names the next arm (Chen et al.
2025, arXiv:2509.24923).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from plumbline_api.methods.shaping.bandit import BanditRegret, OracleImitation
from plumbline_trainer.failures import DataError
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Evidence, Shaped, State

Pulls = Sequence[tuple[int, float]]
"""Arm and reward of each pull, in order."""


@SHAPINGS.implements(BanditRegret)
def bandit_regret(parameters: BanditRegret, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R + weight (mean of the chosen arm - mean of the best).

    It has the expectation of the pull's reward less a constant of the row, and none of the pull's noise. Metrics:
    shares of the best arm and of the arm that looked best so far, and of rows whose best arm is neither chosen nor was
    pulled in the later half of the history.
    """
    rewards = rollout.rewards.clone()
    invalid = best = greedy = failed = counted = 0.0
    for index, (text, row) in enumerate(zip(rollout.texts, rollout.columns, strict=True)):
        if not rollout.valid[index]:
            continue
        means = _means(row, parameters.means_column)
        arm = chosen_arm(text, parameters.arm_pattern, len(means))
        counted += 1
        invalid += arm is None
        rewards[index] += parameters.weight * (parameters.invalid if arm is None else means[arm] - max(means))
        pulls = _pulls(row, parameters.history_column, len(means))
        best += arm is not None and means[arm] == max(means)
        greedy += arm is not None and arm == greedy_arm(len(means), pulls)
        failed += suffix_failure([*(pull for pull, _ in pulls), -1 if arm is None else arm], means, len(pulls) // 2)
    totals = {"invalid": invalid, "best_arm": best, "greedy": greedy, "suffix_failure": failed}
    return Shaped(rewards, metrics={name: Metric(total, counted) for name, total in totals.items()})


@SHAPINGS.implements(OracleImitation)
def oracle_imitation(parameters: OracleImitation, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R + weight for the arm that the oracle chooses after the row's history, R for another, R + weight invalid for
    none."""
    values = torch.zeros_like(rollout.rewards)
    for index, (text, row) in enumerate(zip(rollout.texts, rollout.columns, strict=True)):
        if not rollout.valid[index]:
            continue
        arms = _arms(row, parameters.arms_column)
        arm = chosen_arm(text, parameters.arm_pattern, arms)
        pulls = _pulls(row, parameters.history_column, arms)
        oracle = (
            greedy_arm(arms, pulls) if parameters.oracle == "greedy" else ucb_arm(arms, pulls, parameters.exploration)
        )
        values[index] = parameters.invalid if arm is None else float(arm == oracle)
    return Shaped(
        rollout.rewards + parameters.weight * values,
        metrics={"agreement": Metric.mean_of((values == 1).double(), rollout.valid)},
    )


def chosen_arm(text: str, pattern: str, arms: int) -> int | None:
    """The arm that the last match of the pattern names; None without a match, or for a number that is no arm."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    named = matches[-1].group(1 if matches[-1].re.groups else 0) or ""
    return int(named) if named.isdecimal() and int(named) < arms else None


def greedy_arm(arms: int, pulls: Pulls) -> int:
    """The first arm that was never pulled, else the arm with the greatest mean reward; the lowest number wins ties."""
    return ucb_arm(arms, pulls, 0.0)


def ucb_arm(arms: int, pulls: Pulls, exploration: float) -> int:
    """The first arm that was never pulled, else the greatest mean + c sqrt(2 ln t / n) after n of t pulls (UCB1;
    Auer, Cesa-Bianchi and Fischer 2002, "Finite-time Analysis of the Multiarmed Bandit Problem")."""
    counts, sums = [0] * arms, [0.0] * arms
    for arm, reward in pulls:
        counts[arm] += 1
        sums[arm] += reward
    if 0 in counts:
        return counts.index(0)
    bonus = 2 * math.log(len(pulls))
    return max(range(arms), key=lambda arm: sums[arm] / counts[arm] + exploration * math.sqrt(bonus / counts[arm]))


def suffix_failure(chosen: Sequence[int], means: Sequence[float], start: int) -> bool:
    """Whether no best arm is among the choices from index `start` on: the policy has given it up."""
    return all(arm < 0 or means[arm] < max(means) for arm in chosen[start:])


def _means(row: Mapping[str, Any], column: str) -> list[float]:
    means = row.get(column)
    if not isinstance(means, Sequence) or not means or not all(_is_number(mean) for mean in means):
        raise DataError(f"column {column}: {means!r} is no list of the arms' means")
    return [float(mean) for mean in means]


def _arms(row: Mapping[str, Any], column: str) -> int:
    arms = row.get(column)
    if isinstance(arms, bool) or not isinstance(arms, int) or arms < 1:
        raise DataError(f"column {column}: {arms!r} is no number of arms")
    return arms


def _pulls(row: Mapping[str, Any], column: str, arms: int) -> list[tuple[int, float]]:
    pulls = row.get(column) or []
    try:
        read = [(int(arm), float(reward)) for arm, reward in pulls]
    except (TypeError, ValueError) as error:
        raise DataError(f"column {column}: {pulls!r} is no list of [arm, reward]") from error
    if any(not 0 <= arm < arms for arm, _ in read):
        raise DataError(f"column {column}: {pulls!r} names an arm beyond the {arms} that exist")
    return read


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
