"""Objectives on pairs whose rewards are log-ratios of policy to reference: DPO and its relatives."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.direct import Dpo, Ipo
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements


@implements(Dpo)
def dpo(parameters: Dpo, pairs: Pairs) -> Losses:
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), with label smoothing.

    -(1 - e) log sigma(beta (h(y_w) - h(y_l))) - e log sigma(-beta (h(y_w) - h(y_l))), where e is the assumed
    probability of a flipped label (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3); e = 0 is eq. 7.
    Rewards are beta h (eq. 5 without its prompt-only term).
    """
    chosen, rejected = pairs.chosen.log_ratio, pairs.rejected.log_ratio
    margin = parameters.beta * (chosen - rejected)
    flipped = parameters.label_smoothing
    losses = -(1 - flipped) * logsigmoid(margin) - flipped * logsigmoid(-margin)
    return losses, pair_metrics(parameters.beta * chosen, parameters.beta * rejected) | logprob_metrics(pairs)


@implements(Ipo)
def ipo(parameters: Ipo, pairs: Pairs) -> Losses:
    """Identity preference optimization (Azar et al. 2023, arXiv:2310.12036, eq. 17).

    ((h(y_w) - h(y_l)) - 1 / (2 tau))^2. With `length_normalized` each h is first divided by its number of tokens.
    Rewards are tau times the log-ratios that enter the loss.
    """
    chosen, rejected = pairs.chosen.log_ratio, pairs.rejected.log_ratio
    if parameters.length_normalized:
        chosen, rejected = chosen / pairs.chosen.tokens, rejected / pairs.rejected.tokens
    losses = (chosen - rejected - 1 / (2 * parameters.tau)).square()
    return losses, pair_metrics(parameters.tau * chosen, parameters.tau * rejected) | logprob_metrics(pairs)
