"""Reward modelling on scalar scores."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference import RewardModel
from plumbline_trainer.objectives.preference import RowLosses, pair_metrics
from plumbline_trainer.objectives.registry import implements


@implements(RewardModel)
def reward_model(parameters: RewardModel, chosen: torch.Tensor, rejected: torch.Tensor) -> RowLosses:
    """Bradley-Terry: -log sigma(r(x, y_w) - r(x, y_l)) (Ouyang et al. 2022, arXiv:2203.02155, eq. 1), plus centring.

    `chosen` and `rejected` are the scores r, `[B]`; returns losses `[B]`. The likelihood only fixes differences of
    scores; c (r(x, y_w) + r(x, y_l))^2 with c = `centering_coefficient` also holds their mean at zero (Eisenstein et
    al. 2023, arXiv:2312.09244, sec. 2).
    """
    losses = -logsigmoid(chosen - rejected) + parameters.centering_coefficient * (chosen + rejected).square()
    return losses, pair_metrics(chosen, rejected)
