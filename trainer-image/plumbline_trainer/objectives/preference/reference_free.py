"""Objectives on pairs that need no reference model."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.reference_free import Simpo
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements


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
