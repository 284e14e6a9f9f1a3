"""Weights of pairs: how much each pair of a step counts, given what the policy thinks of its completions.

A weight multiplies the loss of its pair, whatever the objective. It depends on that pair alone, so it is the same
however a step is split, and it carries no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from plumbline_api.methods.weighting import Alignment, NoWeighting, PairWeighting, Wpo
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs
from plumbline_trainer.registry import Registry

PAIR_WEIGHTINGS: Registry[Callable[..., torch.Tensor]] = Registry(PairWeighting)
"""Functions `(parameters, pairs) -> weights [B]`."""


@PAIR_WEIGHTINGS.implements(NoWeighting)
def equal_weights(parameters: NoWeighting, pairs: Pairs) -> torch.Tensor:
    """[B]: 1 for every pair."""
    return torch.ones_like(pairs.chosen.logprob.detach())


@PAIR_WEIGHTINGS.implements(Wpo)
def wpo_weights(parameters: Wpo, pairs: Pairs) -> torch.Tensor:
    """Weighted preference optimization (Zhou et al. 2024, arXiv:2406.11827, eq. 2): w(y_w) w(y_l), `[B]`.

    w(y) = exp((1/|y|) sum_t (log pi(y_t | x, y_<t) - c_t)), where c_t is `TokenLogprobs.typical` (see
    `typical_logprobs`) and 0 without alignment. With c_t, completions that the policy itself would write weigh about
    the same wherever it is sure and wherever it is not.
    """
    return _weight(parameters.alignment, pairs.chosen) * _weight(parameters.alignment, pairs.rejected)


@torch.no_grad()
def typical_logprobs(alignment: Alignment, logits: torch.Tensor) -> torch.Tensor:
    """c_t of `wpo_weights` from `logits` [..., V], as [...]: what a typical token has for a log-probability.

    sampled: log sum_v pi(v)^2, the log of the probability that a sampled token has on average (the sum is E[pi(v)] for
    v drawn from pi), so the factor pi(y_t) / e^c_t of sampled tokens is 1 on average. greedy: log max_v pi(v), so the
    factor of greedy tokens is 1 and no weight is above 1. none: 0, for which nobody needs to make logits.

    With z the logits, log pi(v) = z_v - lse(z), so log sum_v pi(v)^2 = lse(2 z) - 2 lse(z).
    """
    if alignment == "none":
        return torch.zeros_like(logits[..., 0])
    normalizer = torch.logsumexp(logits, dim=-1)
    if alignment == "greedy":
        return logits.amax(dim=-1) - normalizer
    return torch.logsumexp(2 * logits, dim=-1) - 2 * normalizer


def _weight(alignment: Alignment, completions: Completions) -> torch.Tensor:
    """[B]: w(y). Raises `ValueError` without what the alignment needs."""
    tokens = completions.by_token
    if tokens is None:
        raise ValueError("WPO needs the log-probability of every token")
    logprobs = tokens.policy.detach()
    if alignment != "none":
        if tokens.typical is None:
            raise ValueError(f"{alignment} alignment needs typical log-probabilities")
        logprobs = logprobs - tokens.typical
    totals = torch.where(tokens.mask, logprobs, 0.0).sum(dim=1)
    return (totals / completions.tokens).exp()
