"""How good held-out predictions of preferences are: wins, and whether stated probabilities can be believed.

A margin of rewards states a probability, sigma(margin), that the chosen completion wins: the Bradley-Terry model, which
reward models are trained for and in which beta (h(y_w) - h(y_l)) is the margin of a policy (Rafailov et al. 2023,
arXiv:2305.18290, eq. 6). Pure functions on all held-out rows at once; whoever calls them gathers the rows of all ranks.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

BINS = 10
"""Bins of the expected calibration error."""


def calibration(margins: torch.Tensor, bins: int = BINS) -> dict[str, float]:
    """Metrics of pairs from their margins of rewards `[N]`, chosen minus rejected; empty where N is 0.

    - `win_accuracy`: share of pairs whose chosen completion has the higher reward; a tie counts half.
    - `calibration/ece`: expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, eq. 3).
      The prediction is the completion with the higher reward, its confidence sigma(|margin|). Confidences are sorted
      into `bins` of equal width between 1/2 and 1; the error is the mean over pairs of |accuracy - confidence| of
      their bin.
    - `calibration/overconfidence`: mean confidence minus `win_accuracy`; below 0 where the margins are too small.
    - `calibration/brier`: mean of (1 - sigma(margin))^2 (Brier 1950); 1/4 for a model that knows nothing.
    - `calibration/log_loss`: mean of -log sigma(margin), in nats; log 2 for a model that knows nothing.
    """
    if not margins.numel():
        return {}
    margins = margins.detach().double()
    won = (margins.sign() + 1) / 2
    confidence = torch.sigmoid(margins.abs())
    return {
        "win_accuracy": float(won.mean()),
        "calibration/ece": _calibration_error(confidence, won, lowest=0.5, bins=bins),
        "calibration/overconfidence": float((confidence - won).mean()),
        "calibration/brier": float(torch.sigmoid(-margins).square().mean()),
        "calibration/log_loss": float(-logsigmoid(margins).mean()),
    }


def label_calibration(rewards: torch.Tensor, desirable: torch.Tensor, bins: int = BINS) -> dict[str, float]:
    """Metrics of single completions from rewards `[N]`, whose sigmoid states the probability of being desirable, and
    labels `[N]` bool; empty where N is 0.

    - `label_accuracy`: share of rows with a positive reward if desirable and a negative one if not; 0 counts half.
    - `calibration/ece`: as in `calibration`, but of the probability itself, in `bins` between 0 and 1.
    - `calibration/overconfidence`: mean of max(p, 1 - p) minus `label_accuracy`.
    - `calibration/brier`, `calibration/log_loss`: of the probability that is given to the row's label.
    """
    if not rewards.numel():
        return {}
    rewards = rewards.detach().double()
    # towards the row's own label, so that a positive number is a right answer
    signed = torch.where(desirable, rewards, -rewards)
    right = (signed.sign() + 1) / 2
    return {
        "label_accuracy": float(right.mean()),
        "calibration/ece": _calibration_error(torch.sigmoid(rewards), desirable.double(), lowest=0.0, bins=bins),
        "calibration/overconfidence": float((torch.sigmoid(rewards.abs()) - right).mean()),
        "calibration/brier": float(torch.sigmoid(-signed).square().mean()),
        "calibration/log_loss": float(-logsigmoid(signed).mean()),
    }


def _calibration_error(stated: torch.Tensor, happened: torch.Tensor, *, lowest: float, bins: int) -> float:
    """Sum over bins of |sum of (happened - stated)|, divided by N: each bin's |mean difference| weighted by its rows.

    `stated` `[N]` are probabilities from `lowest` to 1, `happened` `[N]` what came of them, 0 to 1. NaN where a
    probability is.
    """
    if stated.isnan().any():
        return float("nan")
    index = ((stated - lowest) / (1 - lowest) * bins).long().clamp(0, bins - 1)
    differences = torch.zeros(bins, dtype=stated.dtype, device=stated.device).index_add(0, index, happened - stated)
    return float(differences.abs().sum() / stated.numel())
