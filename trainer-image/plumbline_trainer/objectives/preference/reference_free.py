"""Objectives on pairs that need no reference model."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.reference_free import AlphaPo, Cpo, Orpo, Redi, Simpo, Slic
from plumbline_trainer.objectives.preference.complement import log_complement
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric

LARGEST_EXPONENT = 40.0
"""Where `shaped_reward` goes on along its tangent: e^40 and its square, as in a gradient's norm, fit in 32 bits."""


@implements(Simpo)
def simpo(parameters: Simpo, pairs: Pairs) -> Losses:
    """Simple preference optimization (Meng et al. 2024, arXiv:2405.14734, eq. 6).

    -log sigma(beta log pi(y_w|x) / |y_w| - beta log pi(y_l|x) / |y_l| - gamma). The rewards are its two first terms
    (eq. 4): length-normalised and without a reference.
    """
    chosen = parameters.beta * pairs.chosen.mean_logprob
    rejected = parameters.beta * pairs.rejected.mean_logprob
    losses = -logsigmoid(chosen - rejected - parameters.gamma)
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


@implements(AlphaPo)
def alphapo(parameters: AlphaPo, pairs: Pairs) -> Losses:
    """AlphaPO (Gupta et al. 2025, arXiv:2501.03884): SimPO's loss with rewards beta `shaped_reward`.

    -log sigma(r(y_w) - r(y_l) - gamma), r(y) = beta (1 - p^-alpha) / alpha, p = pi(y|x)^(1/|y|). As alpha goes to 0, r
    goes to beta log p, and the loss to SimPO's. gamma is in units of r; implementations that write
    beta (r/beta - gamma') mean gamma = beta gamma'.
    """
    chosen = parameters.beta * shaped_reward(pairs.chosen.mean_logprob, parameters.alpha)
    rejected = parameters.beta * shaped_reward(pairs.rejected.mean_logprob, parameters.alpha)
    losses = -logsigmoid(chosen - rejected - parameters.gamma)
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


def shaped_reward(logprob: torch.Tensor, alpha: float) -> torch.Tensor:
    """(1 - e^(-alpha x)) / alpha for log-probabilities x of any shape, with gradient; x itself for alpha = 0.

    As -expm1(-alpha x) / alpha it keeps its digits for small alpha. Where -alpha x is above `LARGEST_EXPONENT` (for
    alpha = 0.25, a mean log-probability of -160 a token) the reward continues as a straight line, because powers of e
    leave the range of floating point there.
    """
    if alpha == 0:
        return logprob
    exponent = -alpha * logprob
    curved = exponent.clamp(max=LARGEST_EXPONENT)
    return -(torch.expm1(curved) + curved.exp() * (exponent - curved)) / alpha


@implements(Orpo)
def orpo(parameters: Orpo, pairs: Pairs) -> Losses:
    """Odds ratio preference optimization (Hong et al. 2024, arXiv:2403.07691, eqs. 6 and 7).

    -log pi(y_w|x) / |y_w| - lambda log sigma(log(odds(y_w) / odds(y_l))), with odds(y) = p / (1 - p) and p the
    length-normalised probability pi(y|x)^(1/|y|). Rewards are the log-odds.
    """
    likelihood = pairs.chosen.mean_logprob
    chosen, rejected = log_odds(likelihood), log_odds(pairs.rejected.mean_logprob)
    losses = -likelihood - parameters.odds_ratio_weight * logsigmoid(chosen - rejected)
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


def log_odds(logprob: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) from log p, of any shape, with gradient; finite for every p that rounding produces."""
    return logprob - log_complement(logprob)


@implements(Cpo)
def cpo(parameters: Cpo, pairs: Pairs) -> Losses:
    """Contrastive preference optimization (Xu et al. 2024, arXiv:2401.08417, sec. 3.2).

    -log sigma(beta log pi(y_w|x) - beta log pi(y_l|x)) - c log pi(y_w|x), where the last log-probability is divided by
    |y_w| if `length_normalized`. The first term is DPO's with a uniform reference; rewards are beta log pi.
    """
    chosen, rejected = parameters.beta * pairs.chosen.logprob, parameters.beta * pairs.rejected.logprob
    likelihood = pairs.chosen.mean_logprob if parameters.length_normalized else pairs.chosen.logprob
    losses = -logsigmoid(chosen - rejected) - parameters.likelihood_weight * likelihood
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


@implements(Slic)
def slic(parameters: Slic, pairs: Pairs) -> Losses:
    """Sequence likelihood calibration with human feedback (Zhao et al. 2023, arXiv:2305.10425).

    max(0, delta - log pi(y_w|x) + log pi(y_l|x)) - lambda log pi(y_w|x). The paper's second term takes a target text
    of its own; here it is the chosen completion, as pairs carry no other. Rewards are log pi.
    """
    chosen, rejected = pairs.chosen.logprob, pairs.rejected.logprob
    losses = (parameters.delta - chosen + rejected).relu() - parameters.likelihood_weight * chosen
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


@implements(Redi)
def redi(parameters: Redi, pairs: Pairs) -> Losses:
    """Reinforcement distillation (Xu et al. 2025, arXiv:2505.24850).

    -log pi(y_w|x) / |y_w| + alpha log pi(y_l|x) / |y_l|. It has no lower bound: what ends it is the number of steps.
    With alpha = 1 it sees only the difference, which also grows where both log-probabilities fall; (1 - alpha) is the
    share of plain likelihood that speaks against that. Rewards are the length-normalised log-probabilities.
    """
    chosen, rejected = pairs.chosen.mean_logprob, pairs.rejected.mean_logprob
    losses = -chosen + parameters.alpha * rejected
    metrics = pair_metrics(chosen, rejected) | logprob_metrics(pairs)
    return losses, metrics | {"loss/positive": Metric.mean_of(-chosen), "loss/negative": Metric.mean_of(rejected)}
