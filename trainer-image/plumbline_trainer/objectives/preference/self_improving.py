"""Objectives that train a model to answer and to improve an answer that it is shown."""

from __future__ import annotations

import torch

from plumbline_api.methods.preference.self_improving import Srpo
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs, Revisions
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics, won
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Srpo)
def srpo(parameters: Srpo, pairs: Pairs) -> Losses:
    """Self-improving robust preference optimization (Choi et al. 2024, arXiv:2406.01660), with `Pairs.revisions`.

    `srpo_losses` with p = 1 - label smoothing for every pair. Rewards are beta/2 (h(y) + h(y|other)), whose margin
    the loss of the policy pulls to p - 1/2. `improver/*` look at the revisions alone: beta times the log-ratio of a
    change of the answer over that of keeping it, towards the chosen and towards the rejected completion, and how
    often the former is positive and the latter negative.
    """
    revisions = given_revisions(pairs)
    probability = torch.full_like(pairs.chosen.log_ratio.detach(), 1 - parameters.label_smoothing)
    losses = srpo_losses(parameters, pairs, probability)
    half = parameters.beta / 2
    chosen = half * (pairs.chosen.log_ratio + revisions.chosen_given_rejected.log_ratio)
    rejected = half * (pairs.rejected.log_ratio + revisions.rejected_given_chosen.log_ratio)
    better, worse = _improver_margins(parameters.beta, revisions)
    metrics = {
        "improver/towards_chosen": Metric.mean_of(better),
        "improver/towards_rejected": Metric.mean_of(worse),
        "improver/accuracy": Metric.mean_of((won(better) + won(-worse)) / 2),
    }
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs) | metrics


def srpo_losses(parameters: Srpo, pairs: Pairs, probability: torch.Tensor) -> torch.Tensor:
    """[B]: (1 - alpha) L_policy + alpha L_improver, where `probability` [B] is p = p(y_w > y_l | x).

    Derivation. The policy pi and the improver pi_2 play

        min_pi max_pi_2  E_{y_1 ~ pi, y_2 ~ pi_2(.|x, y_1)}[ p(y_2 > y_1) - beta KL(pi_2 || ref) + beta KL(pi || ref) ].

    For given y_1 the maximum is pi_2(y_2|y_1) = ref(y_2|y_1) exp(p(y_2 > y_1) / beta) / Z(y_1), with the value
    beta log Z(y_1); the minimum over pi then is pi(y) proportional to ref(y) / Z(y). With h the log-ratio to the
    reference, h(y_2|y_1) = p(y_2 > y_1) / beta - log Z(y_1) and h(y) = -log Z(y) + constant. Two ways to get rid of Z:

    - beta (h(y_2|y_1) - h(y_1|y_1)) = p(y_2 > y_1) - 1/2, because p(y_1 > y_1) = 1/2. Squared, and averaged over
      both orders of the pair, for each completion is the answer to improve once:

        L_improver = 1/2 (p - 1/2 - beta (h(y_w|y_l) - h(y_l|y_l)))^2 + 1/2 (1/2 - p - beta (h(y_l|y_w) - h(y_w|y_w)))^2

    - beta/2 (h(y_2|y_1) - h(y_1|y_2) + h(y_2) - h(y_1)) = p(y_2 > y_1) - 1/2, because p(y_1 > y_2) = 1 - p(y_2 > y_1).
      The other order only changes the residual's sign:

        L_policy = (p - 1/2 - beta/2 (h(y_w|y_l) - h(y_l|y_w) + h(y_w) - h(y_l)))^2

    Every residual is 0 at the game's solution for every pair, so the minimum does not depend on how pairs were drawn.
    A label of 1 or 0 that is drawn with probability p in place of p adds the constant p (1 - p) to the expected
    losses: hard labels have the same optimum. How the paper weighs its two losses is not settled here; alpha is the
    share of the improver's.
    """
    revisions = given_revisions(pairs)
    better, worse = _improver_margins(parameters.beta, revisions)
    improver = ((probability - 0.5 - better).square() + (0.5 - probability - worse).square()) / 2
    between = revisions.chosen_given_rejected.log_ratio - revisions.rejected_given_chosen.log_ratio
    margin = parameters.beta / 2 * (between + pairs.chosen.log_ratio - pairs.rejected.log_ratio)
    policy = (probability - 0.5 - margin).square()
    return (1 - parameters.alpha) * policy + parameters.alpha * improver


def given_revisions(pairs: Pairs) -> Revisions:
    """The pairs' revisions. Raises `ValueError` where there are none."""
    if pairs.revisions is None:
        raise ValueError("this objective needs revisions")
    return pairs.revisions


def _improver_margins(beta: float, revisions: Revisions) -> tuple[torch.Tensor, torch.Tensor]:
    """[B] and [B]: beta (h(y_w|y_l) - h(y_l|y_l)) and beta (h(y_l|y_w) - h(y_w|y_w))."""
    better = revisions.chosen_given_rejected.log_ratio - revisions.rejected_given_rejected.log_ratio
    worse = revisions.rejected_given_chosen.log_ratio - revisions.chosen_given_chosen.log_ratio
    return beta * better, beta * worse
