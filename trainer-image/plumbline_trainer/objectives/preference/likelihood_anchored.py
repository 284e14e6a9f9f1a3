"""Objectives on pairs that add the likelihood of the chosen completion, which DPO alone may let fall.

DPO sees only the difference of the two log-ratios, and where both completions share most of their tokens it lowers
both. In both objectives rewards are beta h, and the metric `loss/likelihood` is the added term with its weight.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.likelihood_anchored import IterativeRpo, Rpo
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Rpo)
def rpo(parameters: Rpo, pairs: Pairs) -> Losses:
    """Regularised preference optimization (Liu et al. 2024, arXiv:2405.16436).

    -log sigma(beta (h(y_w) - h(y_l))) - eta beta log pi(y_w|x): the policy that is best against the worst reward which
    explains the labels about as well as the best one minimises DPO's loss plus the negative log-likelihood of a
    baseline policy, whose samples are the chosen completions. The likelihood is summed over tokens.
    """
    return _anchored(parameters.beta, pairs, -parameters.eta * parameters.beta * pairs.chosen.logprob)


@implements(IterativeRpo)
def iterative_rpo(parameters: IterativeRpo, pairs: Pairs) -> Losses:
    """Iterative reasoning preference optimization (Pang et al. 2024, arXiv:2404.19733, eq. 1).

    -log sigma(beta (h(y_w) - h(y_l))) - alpha log pi(y_w|x) / |y_w|, with the previous iterate as reference.
    """
    return _anchored(parameters.beta, pairs, -parameters.alpha * pairs.chosen.mean_logprob)


def _anchored(beta: float, pairs: Pairs, likelihood: torch.Tensor) -> Losses:
    chosen, rejected = beta * pairs.chosen.log_ratio, beta * pairs.rejected.log_ratio
    metrics = pair_metrics(chosen, rejected) | logprob_metrics(pairs) | {"loss/likelihood": Metric.mean_of(likelihood)}
    return -logsigmoid(chosen - rejected) + likelihood, metrics
