"""Objectives for masked diffusion language models."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.diffusion import Vrpo
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements


@implements(Vrpo)
def vrpo(parameters: Vrpo, pairs: Pairs) -> Losses:
    """Variance-reduced preference optimization (Zhu et al. 2025, "LLaDA 1.5", arXiv:2505.19223).

    -log sigma(beta ((B(y_w) - B_ref(y_w)) - (B(y_l) - B_ref(y_l)))), where `logprob` and `reference` hold estimates of
    the evidence lower bounds B (`modeling.masked_likelihood`). Rewards are beta (B - B_ref).

    Estimates without bias do not make the loss unbiased: -log sigma is convex, with a second derivative of at most
    1/4, so that an error of variance v in the margin adds between 0 and v/8 to the expected loss (Taylor's theorem
    around the true margin, the linear term being zero in expectation). The variance of the margin is what the method
    lowers: many noise levels with one mask each, and the same masks under policy and reference, whose errors then
    have positive covariance and cancel in the difference.
    """
    chosen = parameters.beta * pairs.chosen.log_ratio
    rejected = parameters.beta * pairs.rejected.log_ratio
    return -logsigmoid(chosen - rejected), pair_metrics(chosen, rejected) | logprob_metrics(pairs)
