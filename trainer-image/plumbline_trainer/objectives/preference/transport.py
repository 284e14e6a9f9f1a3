"""Objectives that compare distributions of log-ratios over a whole step, by optimal transport in one dimension.

In one dimension the optimal coupling of two samples of equal size matches them in sorted order, whatever the convex
cost, so stochastic dominance of one sample over the other is a statement about n sorted differences. Which values meet
is decided over the whole optimizer step: ranks and partners come from `whole_step`, which has no gradient, and the
row's own value carries it. A partner depends on the order of all values and not on the values themselves, so its
derivative is zero wherever no two values tie, and the gradients of micro-batches add up to that of the whole step.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.transport import Aot, AotUnpaired, TransportObjective
from plumbline_trainer.objectives.preference.inputs import Completions, Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Aot)
def aot(parameters: Aot, pairs: Pairs) -> Losses:
    """Alignment via optimal transport, paired (Melnyk et al. 2024, arXiv:2406.05882).

    u_i = log pi(y_w|x_i) - log pi(y_l|x_i) and v_i the same under the reference, for the n pairs of the step. With
    u_(k), v_(k) the k-th smallest, the step's loss is the mean over k of f(u_(k) - v_(k)),
    f(d) = -(1 - e) log sigma(beta d) - e log sigma(-beta d): the policy's margins are to dominate the reference's.

    Returns `[B]`: row i has f(u_i - v_(k)) with k the rank of u_i in the step, so rows sum to the step's loss.
    """
    whole_step, positions = _whole_step(pairs)
    ranks = _ranks(whole_step.chosen.logprob - whole_step.rejected.logprob)[positions]
    reference_margins = _reference(whole_step.chosen) - _reference(whole_step.rejected)
    partners = reference_margins.sort().values[ranks]
    losses = _dominance(parameters, pairs.chosen.logprob - pairs.rejected.logprob - partners)
    return losses, _metrics(parameters, pairs)


@implements(AotUnpaired)
def aot_unpaired(parameters: AotUnpaired, pairs: Pairs) -> Losses:
    """Alignment via optimal transport, unpaired (Melnyk et al. 2024, arXiv:2406.05882).

    With a_(k) the k-th smallest h(y_w) and b_(k) the k-th smallest h(y_l) of the step, its loss is the mean over k of
    f(a_(k) - b_(k)), f as in `aot`: rewards of chosen completions are to dominate those of rejected ones.

    a_(k) and b_(k) may belong to different rows, and so to different micro-batches, each of which has the gradient of
    its own side only. Let sg stop gradients, and let row i hold the chosen value of rank k and the rejected value of
    rank j. Its two halves are C = f(a_i - sg b_(k)) and R = f(sg a_(j) - b_i). Over the step, sum C = sum R = the sum
    of f that is wanted, while grad of sum C is its gradient through all a and grad of sum R that through all b: each
    value is there twice, each gradient once. Row i therefore has C + R - sg(C + R) / 2, whose value is (C + R) / 2
    and whose gradient is that of C + R.

    Returns `[B]`; rows sum to the step's loss, and their gradients to its gradient.
    """
    whole_step, positions = _whole_step(pairs)
    chosen, rejected = whole_step.chosen.log_ratio.detach(), whole_step.rejected.log_ratio.detach()
    below_chosen = rejected.sort().values[_ranks(chosen)[positions]]
    above_rejected = chosen.sort().values[_ranks(rejected)[positions]]
    halves = _dominance(parameters, pairs.chosen.log_ratio - below_chosen)
    halves = halves + _dominance(parameters, above_rejected - pairs.rejected.log_ratio)
    return halves - halves.detach() / 2, _metrics(parameters, pairs)


def _dominance(parameters: TransportObjective, differences: torch.Tensor) -> torch.Tensor:
    """f of `aot`: the logistic penalty of quantiles that are not above their partners, with label smoothing e."""
    scaled, flipped = parameters.beta * differences, parameters.label_smoothing
    return -(1 - flipped) * logsigmoid(scaled) - flipped * logsigmoid(-scaled)


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """[n] int64: how many of `values` [n] come before each; ties in order of position, the same on every rank."""
    return values.detach().argsort(stable=True).argsort()


def _whole_step(pairs: Pairs) -> tuple[Pairs, torch.Tensor]:
    if pairs.whole_step is None or pairs.positions is None:
        raise ValueError("this objective needs all pairs of the step")
    return pairs.whole_step, pairs.positions


def _reference(completions: Completions) -> torch.Tensor:
    if completions.reference is None:
        raise ValueError("this objective needs reference log-probabilities")
    return completions.reference


def _metrics(parameters: TransportObjective, pairs: Pairs) -> dict[str, Metric]:
    chosen, rejected = parameters.beta * pairs.chosen.log_ratio, parameters.beta * pairs.rejected.log_ratio
    return pair_metrics(chosen, rejected) | logprob_metrics(pairs)
