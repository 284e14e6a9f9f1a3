"""Objectives that weight log-likelihoods, without an importance ratio."""

from __future__ import annotations

import torch

from plumbline_api.methods.policy.likelihood import Reinforce
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.registry import implements


@implements(Reinforce)
def reinforce(parameters: Reinforce, tokens: PolicyTokens) -> TokenLosses:
    """-A log pi(y_t) of every token; summed over each completion (Ahmadian et al. 2024, arXiv:2402.14740, eq. 6).

    Differs from an unclipped ratio only away from the sampling policy, where this objective is not used.
    """
    return torch.where(tokens.mask, -tokens.advantages * tokens.logprobs, 0.0), {}
