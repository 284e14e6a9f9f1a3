"""Objectives on pairs of steps whose scores are the steps' advantages."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.stepwise import AdvantageDpo
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(AdvantageDpo)
def advantage_dpo(parameters: AdvantageDpo, pairs: Pairs) -> Losses:
    """Per-step DPO weighted by advantages (Setlur et al. 2024, arXiv:2406.14532, sec. 6).

    With m = beta (h(s_w) - h(s_l)) for two steps after the same prefix, and g = (A_w - A_l) / gapScale from their
    advantages, which are the pair's scores,

        weighted:    -g log sigma(m)
        softLabels:  -sigma(g) log sigma(m) - sigma(-g) log sigma(-m)

    The paper shows that per-step DPO, on pairs labelled at random by how far the advantages lie apart, and
    advantage-weighted reinforcement learning have the same optimum. Both forms are derived from that, for a prefix p
    after which steps a, b are drawn from pi_ref, each on its own:

    - softLabels is the expectation of DPO's loss over such labels, a before b with probability
      sigma((A_a - A_b) / gapScale). It is smallest in m at m = g, that is where beta (h(a) - h(b)) = (A_a - A_b) /
      gapScale for all a and b, and so at pi(a|p) = pi_ref(a|p) exp(A_a / (beta gapScale)) / Z: the policy that
      maximises E_pi[A] - beta gapScale KL(pi || pi_ref). gapScale -> 0 is DPO.
    - weighted keeps the given order. Its gradient in m is -g sigma(-m), which at pi = pi_ref is -g / 2. Over all
      ordered pairs the mean gradient there is -beta / (2 gapScale) E[(A_a - A_b) (d log pi(a) - d log pi(b))],
      where E[(A_a - A_b)(v_a - v_b)] = 2 Cov(A, v) and E[d log pi] = 0 leave -beta / gapScale E_pi[A d log pi]: the
      policy gradient of the expected advantage. DPO's would keep only the sign of A_a - A_b. All gaps equal to
      gapScale is DPO; a common factor of all gaps changes the step's size alone.

    A pair whose chosen step does not have the higher advantage weighs nothing in the weighted form;
    `scores/without_gap` is the share of such pairs. Rewards are beta h.
    """
    chosen, rejected = parameters.beta * pairs.chosen.log_ratio, parameters.beta * pairs.rejected.log_ratio
    difference = pairs.chosen.given_score - pairs.rejected.given_score
    gap = difference / parameters.gap_scale
    margin = chosen - rejected
    if parameters.form == "weighted":
        losses = -gap.clamp(min=0) * logsigmoid(margin)
    else:
        losses = -torch.sigmoid(gap) * logsigmoid(margin) - torch.sigmoid(-gap) * logsigmoid(-margin)
    metrics = pair_metrics(chosen, rejected) | logprob_metrics(pairs)
    metrics["scores/gap"] = Metric.mean_of(difference)
    metrics["scores/without_gap"] = Metric.mean_of((difference <= 0).to(losses.dtype))
    return losses, metrics
