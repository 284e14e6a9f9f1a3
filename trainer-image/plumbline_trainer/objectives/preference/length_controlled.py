"""Objectives on pairs that see how long completions are, so that a policy does not learn that longer is better."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.length_controlled import Erpo, LdDpo, Rdpo
from plumbline_trainer.objectives.preference.inputs import Completions, Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements


@implements(Rdpo)
def rdpo(parameters: Rdpo, pairs: Pairs) -> Losses:
    """Length-regularised DPO (Park et al. 2024, arXiv:2403.19159).

    -log sigma(beta (h(y_w) - h(y_l)) + alpha (|y_w| - |y_l|)).

    The policy that maximises E[r(x, y) - alpha |y|] - beta KL(pi || pi_ref) is pi_ref exp((r - alpha |y|) / beta) / Z,
    so r(x, y) = beta h(y) + alpha |y| + beta log Z(x), and the Bradley-Terry likelihood of labels that follow r is this
    loss. The sign follows from there: where the longer completion was preferred, its length explains a part of that
    preference, and less of it is left to raise h. Rewards are beta h + alpha |y|, what the labels are compared with.
    """
    chosen, rejected = (
        parameters.beta * side.log_ratio + parameters.alpha * side.tokens for side in (pairs.chosen, pairs.rejected)
    )
    return -logsigmoid(chosen - rejected), pair_metrics(chosen, rejected) | logprob_metrics(pairs)


@implements(LdDpo)
def ld_dpo(parameters: LdDpo, pairs: Pairs) -> Losses:
    """Length-desensitised DPO (Liu et al. 2024, arXiv:2409.06411).

    -log sigma(beta (h'(y_w) - h'(y_l))), h'(y) = sum_{t <= m} h_t + alpha sum_{t > m} h_t, where h_t is the log-ratio
    of token t and m = min(|y_w|, |y_l|). Only the longer completion has tokens beyond m. Rewards are beta h'.
    """
    shared = torch.minimum(pairs.chosen.tokens, pairs.rejected.tokens)
    chosen, rejected = (
        parameters.beta * _discounted_log_ratio(side, shared, parameters.alpha)
        for side in (pairs.chosen, pairs.rejected)
    )
    return -logsigmoid(chosen - rejected), pair_metrics(chosen, rejected) | logprob_metrics(pairs)


def _discounted_log_ratio(completions: Completions, shared: torch.Tensor, weight: float) -> torch.Tensor:
    """[B]: the log-ratio, its tokens after the first `shared` `[B]` ones weighted."""
    tokens = completions.by_token
    if tokens is None or tokens.reference is None:
        raise ValueError("length-desensitised DPO needs each token's log-probability under policy and reference")
    position = tokens.mask.cumsum(dim=1)
    log_ratios = (tokens.policy - tokens.reference).masked_fill(~tokens.mask, 0)
    return torch.where(position > shared[:, None], weight * log_ratios, log_ratios).sum(dim=1)


@implements(Erpo)
def erpo(parameters: Erpo, pairs: Pairs) -> Losses:
    """Length-controlled preference term of ERPO's third stage (Feng et al. 2025, arXiv:2504.02725).

    -log sigma(beta (h(y_w) - h(y_l)) - w (|y_l| - |y_w|) / max(|y_w|, |y_l|)), w = `length_weight`.

    The paper's abstract names a length-controlled iterative preference optimisation and no formula, so the term is
    derived here from what it must do. Pairs are labelled by safety and usefulness; among safe answers the shorter
    should win by more. Let the labels follow Gumbel-perturbed rewards r = beta h as in Bradley-Terry, and require that
    the winner lead by an offset D, as in DPO with an offset: P(r(y_w) + g_w > r(y_l) + g_l + D) is
    sigma(r(y_w) - r(y_l) - D). Take for D the share of tokens that the winner saves, times w:

    - D > 0 where the winner is shorter and D < 0 where it is longer, so a long winner needs less separation and a short
      one more; equal lengths and w = 0 are DPO;
    - |D| < w whatever the lengths: the gradient always favours y_w, and length cannot outvote safety, as an offset in
      tokens (`rdpo`) does in pairs of long reasoning against a short refusal;
    - D depends only on the ratio of the lengths, so it keeps its meaning as answers get shorter over the rounds.

    Rewards are beta h.
    """
    lengths = pairs.chosen.tokens, pairs.rejected.tokens
    saved = (lengths[1] - lengths[0]) / torch.maximum(*lengths)
    chosen, rejected = parameters.beta * pairs.chosen.log_ratio, parameters.beta * pairs.rejected.log_ratio
    losses = -logsigmoid(chosen - rejected - parameters.length_weight * saved)
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)
