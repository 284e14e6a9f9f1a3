"""Objectives on pairs that see each log-ratio by itself: they say where chosen and rejected should stand, not only
how far apart.

In all of them r = beta h is the implicit reward of a completion, and what is reported as its reward.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.calibrated import ApoDown, ApoZero, Nca, Sppo
from plumbline_api.methods.preference.direct import LogRatioObjective
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Nca)
def nca(parameters: Nca, pairs: Pairs) -> Losses:
    """Noise contrastive alignment on pairs (Chen et al. 2024, arXiv:2402.05369).

    -log sigma(r(y_w)) - 1/2 log sigma(-r(y_w)) - 1/2 log sigma(-r(y_l)). For K completions the method weighs
    log sigma(r_i) by the softmax of their scores and log sigma(-r_i) by 1/K; these are K = 2 and weights (1, 0). The
    chosen completion's term is smallest at r = log 2.
    """
    chosen, rejected = _rewards(parameters, pairs)
    losses = -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
    return losses, _metrics(chosen, rejected, pairs)


@implements(ApoZero)
def apo_zero(parameters: ApoZero, pairs: Pairs) -> Losses:
    """Anchored preference optimization, zero (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7).

    sigma(-r(y_w)) + sigma(r(y_l)): each side has its own gradient, largest at r = 0.
    """
    chosen, rejected = _rewards(parameters, pairs)
    return torch.sigmoid(-chosen) + torch.sigmoid(rejected), _metrics(chosen, rejected, pairs)


@implements(ApoDown)
def apo_down(parameters: ApoDown, pairs: Pairs) -> Losses:
    """Anchored preference optimization, down (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8).

    sigma(r(y_w)) + sigma(-(r(y_w) - r(y_l))).
    """
    chosen, rejected = _rewards(parameters, pairs)
    return torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen), _metrics(chosen, rejected, pairs)


@implements(Sppo)
def sppo(parameters: Sppo, pairs: Pairs) -> Losses:
    """Self-play preference optimization (Wu et al. 2024, arXiv:2405.00675, eq. 4.7) with win probabilities 1 and 0.

    (h(y_w) - 1/(2 beta))^2 + (h(y_l) + 1/(2 beta))^2: the paper's (h(y) - eta (P(y beats pi) - 1/2))^2 with
    eta = 1/beta. The optimum of a pair is h(y_w) = 1/(2 beta) = -h(y_l), rewards of +-1/2.
    """
    target = 1 / (2 * parameters.beta)
    losses = (pairs.chosen.log_ratio - target).square() + (pairs.rejected.log_ratio + target).square()
    chosen, rejected = _rewards(parameters, pairs)
    return losses, _metrics(chosen, rejected, pairs)


def _rewards(parameters: LogRatioObjective, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    return parameters.beta * pairs.chosen.log_ratio, parameters.beta * pairs.rejected.log_ratio


def _metrics(chosen: torch.Tensor, rejected: torch.Tensor, pairs: Pairs) -> dict[str, Metric]:
    return pair_metrics(chosen, rejected) | logprob_metrics(pairs)
