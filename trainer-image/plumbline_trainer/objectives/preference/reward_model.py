"""Objectives of reward models: scalar scores r(x, y) instead of log-probabilities.

Maximum likelihood on pairs has two customary forms, -log sigma(r_w - r_l) and log(1 + exp(r_l - r_w)). They are the
same function, so there is one objective for both.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.reward_model import (
    BradleyTerryReward,
    PairwiseReward,
    RewardListwise,
    RewardMargin,
    RewardModel,
    RewardRegression,
    RewardRegressionCompatible,
    RewardSoftLabels,
    RewardStep,
)
from plumbline_trainer.objectives.preference.inputs import Losses, Scores
from plumbline_trainer.objectives.preference.measures import list_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements


@implements(RewardModel)
def reward_model(parameters: RewardModel, scores: Scores) -> Losses:
    """Bradley-Terry: -log sigma(r(x, y_w) - r(x, y_l) - m), plus centring; losses `[B]`.

    Without a margin m this is the loss of Ouyang et al. 2022, arXiv:2203.02155, eq. 1. The likelihood only fixes
    differences of rewards; c (r(x, y_w) + r(x, y_l))^2 with c = `centering_coefficient` also holds their mean at zero
    (Eisenstein et al. 2023, arXiv:2312.09244, sec. 2). Label smoothing e takes a share e of the labels for swapped:
    (1 - e) times the loss plus e times that of the swapped pair, -log sigma(-(r_w - r_l - m)); at the optimum
    r_w - r_l = m + log((1 - e) / e). Margin and smoothing: Wang et al. 2024, arXiv:2401.06080.
    """
    return _bradley_terry(parameters, scores)


@implements(RewardStep)
def reward_step(parameters: RewardStep, scores: Scores) -> Losses:
    """Bradley-Terry on the rewards of two next steps, -log sigma(r(x, s_<k, s_w) - r(x, s_<k, s_l) - m); losses `[B]`.

    The prefix s_<k is context of both sides, and a step's reward is read off its last token, where a causal model has
    seen the prompt, the prefix and the step. A reward that is a function of the prefix cancels, so what is learnt is
    the step's advantage over other steps from the same state. The loss is `reward_model`'s (Ma et al. 2024).
    """
    return _bradley_terry(parameters, scores)


@implements(RewardMargin)
def reward_margin(parameters: RewardMargin, scores: Scores) -> Losses:
    """-log sigma(r_w - r_l - a (s_w - s_l)) for scores s of the data and a = `margin_scale`, plus centring; `[B]`.

    Touvron et al. 2023, arXiv:2307.09288, eq. 2, whose m(r) is a number for each of four grades of preference: scores
    whose differences are those numbers give the same. A data set with a column of margins is one whose rejected scores
    are 0 and whose chosen scores are the margins.
    """
    chosen, rejected = scores.values.unbind(dim=1)
    margin = parameters.margin_scale * _score_gap(scores)
    losses = -logsigmoid(chosen - rejected - margin) + _centering(parameters, scores)
    return losses, pair_metrics(chosen, rejected)


@implements(RewardSoftLabels)
def reward_soft_labels(parameters: RewardSoftLabels, scores: Scores) -> Losses:
    """-p log sigma(d) - (1 - p) log sigma(-d), d = r_w - r_l, p = sigma((s_w - s_l) / T), plus centring; losses `[B]`.

    The cross-entropy of two Bradley-Terry models (Bradley & Terry 1952): the data's scores at temperature T, and the
    rewards. Its gradient in d is sigma(d) - p, so that at the optimum r_w - r_l = (s_w - s_l) / T. T -> 0 gives hard
    labels, that is `reward_model`.
    """
    chosen, rejected = scores.values.unbind(dim=1)
    difference = chosen - rejected
    probability = torch.sigmoid(_score_gap(scores) / parameters.temperature)
    losses = -probability * logsigmoid(difference) - (1 - probability) * logsigmoid(-difference)
    return losses + _centering(parameters, scores), pair_metrics(chosen, rejected)


@implements(RewardListwise)
def reward_listwise(_: RewardListwise, scores: Scores) -> Losses:
    """Plackett-Luce: sum over k of log(exp r_k + sum of exp r_j over completions j with a lower score) - r_k; `[B]`.

    The likelihood of the order by score: the best is picked among all with probability softmax(r), then the best of the
    rest, and so on (Plackett 1975; Luce 1959; as a loss Xia et al. 2008). With K = 2 it is Bradley-Terry. Ties are no
    part of the model; here a completion competes with those of lower score only, so that the order in which tied ones
    are listed changes nothing, and rows whose scores are all equal have loss and gradient 0.
    """
    values, labels, present = scores.values, _labels(scores), scores.present
    worse = (labels[:, :, None] > labels[:, None, :]) & present[:, None, :]
    # stage k is a choice between k itself (always in, so that no stage is empty) and everything worse than k
    competes = worse | torch.eye(values.shape[1], dtype=torch.bool, device=values.device)
    stages = values[:, None, :].masked_fill(~competes, float("-inf")).logsumexp(dim=2) - values
    return stages.masked_fill(~present, 0.0).sum(dim=1), list_metrics(scores)


@implements(RewardRegression)
def reward_regression(_: RewardRegression, scores: Scores) -> Losses:
    """Mean over the row's completions of (r(x, y_k) - s_k)^2; losses `[B]` (Wang et al. 2024, arXiv:2406.08673)."""
    errors = (scores.values - _labels(scores)).square()
    return _row_mean(errors, scores.present), list_metrics(scores)


@implements(RewardRegressionCompatible)
def reward_regression_compatible(parameters: RewardRegressionCompatible, scores: Scores) -> Losses:
    """(1 - a) SigmoidCE + a ListCE of the sigmoids, a = `ranking_weight`; losses `[B]` (Bai et al. 2022,
    arXiv:2211.01494). With labels y_k in [0, 1], K completions in the row and p_k = sigma(r_k):

        SigmoidCE = 1/K sum_k (-y_k log p_k - (1 - y_k) log(1 - p_k))
        ListCE    = 1/K sum_k (-y_k log(p_k / sum_j p_j))

    Both are minimised in expectation by p_k = P_k = E[y_k | x]. For ListCE: K dE/dp_k = -P_k / p_k + sum_j P_j / sum_j
    p_j, which is 0 for every k exactly where p is proportional to P; SigmoidCE fixes the factor. The usual ListCE,
    on softmax(r), has its minimum where exp(r) is proportional to P, which is a different r. Dividing by the number of
    positives in place of K would weigh labels by the others in the list and move the minimum. That the two terms are
    mixed as a convex combination, and that both are means over the list, is this implementation's choice.
    """
    values, labels, present = scores.values, _labels(scores), scores.present
    log_right, log_wrong = logsigmoid(values), logsigmoid(-values)
    cross_entropy = -labels * log_right - (1 - labels) * log_wrong
    total = log_right.masked_fill(~present, float("-inf")).logsumexp(dim=1, keepdim=True)
    ranking = -labels * (log_right - total)
    weight = parameters.ranking_weight
    return _row_mean((1 - weight) * cross_entropy + weight * ranking, present), list_metrics(scores)


def _bradley_terry(parameters: BradleyTerryReward, scores: Scores) -> Losses:
    chosen, rejected = scores.values.unbind(dim=1)
    difference = chosen - rejected - parameters.margin
    smoothing = parameters.label_smoothing
    losses = -(1 - smoothing) * logsigmoid(difference) - smoothing * logsigmoid(-difference)
    return losses + _centering(parameters, scores), pair_metrics(chosen, rejected)


def _centering(parameters: PairwiseReward, scores: Scores) -> torch.Tensor:
    """`[B]`: what holds the mean reward at zero."""
    return parameters.centering_coefficient * scores.values.sum(dim=1).square()


def _score_gap(scores: Scores) -> torch.Tensor:
    """`[B]`: the data's score of the chosen minus that of the rejected completion."""
    chosen, rejected = _labels(scores).unbind(dim=1)
    return chosen - rejected


def _labels(scores: Scores) -> torch.Tensor:
    """`[B, K]`: the data's scores, as the rewards' type."""
    if scores.labels is None:
        raise ValueError("this objective needs scores")
    return scores.labels.to(scores.values.dtype)


def _row_mean(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """`[B]`: mean of `[B, K]` over the completions that exist."""
    return values.masked_fill(~present, 0.0).sum(dim=1) / present.sum(dim=1)
