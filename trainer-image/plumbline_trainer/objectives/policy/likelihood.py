"""Objectives that weight log-likelihoods, without an importance ratio."""

from __future__ import annotations

from torch import Tensor

from plumbline_api.methods.policy.likelihood import Gpg, Reinforce
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout

SCALE = "scale"
"""Name of GPG's prepared tensor: [N], the same factor for every completion."""


@implements(Reinforce)
def reinforce(parameters: Reinforce, tokens: PolicyTokens) -> TokenLosses:
    """-A log pi(y_t) of every token; summed over each completion (Ahmadian et al. 2024, arXiv:2402.14740, eq. 6).

    Differs from an unclipped ratio only away from the sampling policy, where this objective is not used.
    """
    return -tokens.inside(tokens.advantages) * tokens.inside(tokens.logprobs), {}


@implements(Gpg)
def gpg(parameters: Gpg, tokens: PolicyTokens) -> TokenLosses:
    """-alpha A log pi(y_t) of every token; by default averaged over tokens (Chu et al. 2025, arXiv:2504.02546).

    alpha = B / (B - M) for B completions with a reward, M of which are in groups without any advantage: such groups
    dilute the mean, more of them as training goes on, and alpha takes that back.
    """
    scale = tokens.prepared_as(SCALE)
    return -scale * tokens.inside(tokens.advantages) * tokens.inside(tokens.logprobs), {}


@PREPARATIONS.implements(Gpg)
def share_of_groups_with_signal(parameters: Gpg, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """GPG's alpha; 1 where no group has an advantage."""
    signal = (advantages != 0).any(dim=1).double()
    in_group = Groups(rollout.groups, rollout.valid).highest(signal) > 0
    counted = float((in_group & rollout.valid).sum())
    alpha = float(rollout.valid.sum()) / counted if counted else 1.0
    return {SCALE: advantages.new_full(rollout.rewards.shape, alpha)}
