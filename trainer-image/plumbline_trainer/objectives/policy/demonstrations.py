"""Completions that are learnt from as they are written, beside those that an objective learns from.

Hybrid post-training (Lv et al. 2025, arXiv:2509.04419) adds two losses, -log pi of demonstrations and a policy gradient
of samples, each prompt having one of the two. A demonstration was not sampled, is in no group and has no verdict: the
objective, its preparation and the importance ratio have nothing to say about it, and so do not see it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses

DEMONSTRATED = "demonstrated"
"""Under this name of `PolicyTokens.prepared`, [B], the loss finds the demonstrations: 1, other completions 0."""


def beside_demonstrations(objective: Callable[[PolicyTokens], TokenLosses], tokens: PolicyTokens) -> TokenLosses:
    """-w log pi(y_t) of every token of a demonstration, whose advantage is its weight w, and the losses of `objective`
    for the other completions, which are all that it is given. The metrics are those of the objective."""
    demonstrated = tokens.prepared[DEMONSTRATED] > 0
    losses = -tokens.inside(tokens.advantages) * tokens.inside(tokens.logprobs)
    places = torch.nonzero(~demonstrated)[:, 0]
    if not len(places):
        return losses, {}
    of_samples, metrics = objective(tokens.rows(places))
    return losses.index_put((places,), of_samples.to(losses.dtype)), metrics
