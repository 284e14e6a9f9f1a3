"""Objectives of reward models: scalar scores instead of log-probabilities."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.reward_model import RewardModel
from plumbline_trainer.objectives.preference.inputs import Losses, Scores
from plumbline_trainer.objectives.preference.measures import pair_metrics
from plumbline_trainer.objectives.registry import implements


@implements(RewardModel)
def reward_model(parameters: RewardModel, scores: Scores) -> Losses:
    """Bradley-Terry: -log sigma(r(x, y_w) - r(x, y_l)) (Ouyang et al. 2022, arXiv:2203.02155, eq. 1), plus centring.

    Returns losses `[B]`. The likelihood only fixes differences of scores; c (r(x, y_w) + r(x, y_l))^2 with
    c = `centering_coefficient` also holds their mean at zero (Eisenstein et al. 2023, arXiv:2312.09244, sec. 2).
    """
    chosen, rejected = scores.values.unbind(dim=1)
    losses = -logsigmoid(chosen - rejected) + parameters.centering_coefficient * (chosen + rejected).square()
    return losses, pair_metrics(chosen, rejected)
