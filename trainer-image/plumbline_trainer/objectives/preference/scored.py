"""Objectives on pairs whose completions carry scores: how much better the chosen one is enters the loss."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.scored import Odpo, ScoreDpo
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Odpo)
def odpo(parameters: Odpo, pairs: Pairs) -> Losses:
    """DPO with an offset (Amini et al. 2024, arXiv:2402.10571).

    -log sigma(beta (h(y_w) - h(y_l)) - alpha f(s_w - s_l)) with scores s and f = log or the identity. It is the
    likelihood of Gumbel-perturbed rewards being apart by the offset and not only in order.

    log needs a positive gap. As the gap goes to 0 the offset goes to minus infinity and the loss and its gradient to
    0: a pair without a gap, or whose rejected completion scores higher, is given that limit and teaches nothing. The
    metric `scores/without_gap` is the share of such pairs. The identity takes the gap as it is, whatever its sign.
    alpha = 0 is DPO on all pairs. Rewards are beta h.
    """
    gap = pairs.chosen.given_score - pairs.rejected.given_score
    if parameters.offset == "log":
        # xlogy rather than a product: 0 log 0 is 0
        offset = torch.xlogy(gap.new_tensor(parameters.alpha), gap.clamp(min=0))
    else:
        offset = parameters.alpha * gap
    chosen, rejected = parameters.beta * pairs.chosen.log_ratio, parameters.beta * pairs.rejected.log_ratio
    losses = -logsigmoid(chosen - rejected - offset)
    metrics = pair_metrics(chosen, rejected) | logprob_metrics(pairs)
    metrics["scores/without_gap"] = Metric.mean_of((gap <= 0).to(losses.dtype))
    return losses, metrics


@implements(ScoreDpo)
def score_dpo(parameters: ScoreDpo, pairs: Pairs) -> Losses:
    """Score-DPO (Wang et al. 2025, "ScoreFlow", arXiv:2502.04306).

    -log sigma(f(s_w) beta h(y_w) - (1 - f(s_l)) beta h(y_l)), where f maps scores monotonically into [0, 1]: here
    f(s) = (s - lowest) / (highest - lowest), cut off at 0 and 1 (the paper's scores lie in [0, 1] and its f is the
    identity). A chosen completion of score 1 and a rejected one of score 0 give DPO; the less a completion deserves
    its side, the less its log-ratio moves. The method also draws pairs with large gaps more often, which is a matter
    of the data and not of the loss.

    Rewards are the two terms, f(s_w) beta h(y_w) and (1 - f(s_l)) beta h(y_l); the metric `scores/clipped` is the share
    of completions whose score lay outside the range.
    """
    scores = torch.stack([pairs.chosen.given_score, pairs.rejected.given_score])
    share = (scores - parameters.lowest_score) / (parameters.highest_score - parameters.lowest_score)
    of_chosen, of_rejected = share.clamp(0, 1)
    chosen = of_chosen * parameters.beta * pairs.chosen.log_ratio
    rejected = (1 - of_rejected) * parameters.beta * pairs.rejected.log_ratio
    losses = -logsigmoid(chosen - rejected)
    metrics = pair_metrics(chosen, rejected) | logprob_metrics(pairs)
    metrics["scores/clipped"] = Metric.mean_of(((share < 0) | (share > 1)).to(losses.dtype))
    return losses, metrics
