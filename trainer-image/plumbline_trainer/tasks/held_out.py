"""Rewards of held-out rows, from which their calibration is measured."""

from __future__ import annotations

import torch

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_trainer.evaluation import calibration, label_calibration
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs, Scores, Unpaired
from plumbline_trainer.tasks.objective_inputs import RowInputs


def stated_rewards(objective: PreferenceObjective, inputs: RowInputs) -> torch.Tensor | None:
    """[B] float64 on the CPU: the margin of each pair's rewards, or the reward of each single completion; None for
    rows that state no preference.

    A reward is the scalar score of a reward model, beta times the log-ratio to the reference, or, without a reference,
    beta times the mean log-probability of a token. beta is the objective's own, or 1 where it has none.
    """
    if isinstance(inputs, Scores) and objective.data_shape == "pairs":
        return (inputs.values[:, 0] - inputs.values[:, 1]).detach().double().cpu()
    beta = float(getattr(objective, "beta", 1.0))
    if isinstance(inputs, Pairs):
        return beta * (_reward(inputs.chosen) - _reward(inputs.rejected))
    if isinstance(inputs, Unpaired):
        return beta * _reward(inputs.completion)
    return None


def calibration_of(rewards: torch.Tensor, desirable: torch.Tensor | None) -> dict[str, float]:
    """Calibration of all held-out rows: of pairs by their margins, of single completions by their labels."""
    return calibration(rewards) if desirable is None else label_calibration(rewards, desirable)


def _reward(completions: Completions) -> torch.Tensor:
    found = completions.mean_logprob if completions.reference is None else completions.log_ratio
    return found.detach().double().cpu()
