"""Objectives without labels: they make the policy surer of what it says already.

All three lower the entropy of the distribution over completions y of a prompt, H = E_pi[-log pi(y)] = E_pi[sum_t H_t],
H_t being the entropy of the next token. By the score function its gradient is E_pi[(-log pi(y)) grad log pi(y)], or
the same with sum_t H_t in place of -log pi(y) plus E_pi[grad sum_t H_t]. EM-RL takes the score terms as REINFORCE with
the reward log pi(y) or -sum_t H_t; EM-FT takes the last term alone (Agarwal et al. 2025, arXiv:2505.15134).
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.entropy_minimization import EntropyFinetuning, SequenceConfidence, TokenConfidence
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(EntropyFinetuning)
def entropy_finetuning(parameters: EntropyFinetuning, tokens: PolicyTokens) -> TokenLosses:
    """H_t of every token; rewards have no part in it."""
    entropy = _entropy(tokens)
    return entropy, {"entropy": Metric.mean_of(entropy, tokens.mask)}


@implements(SequenceConfidence)
def sequence_confidence(parameters: SequenceConfidence, tokens: PolicyTokens) -> TokenLosses:
    """-(c - mean of the others' c) log pi(y_t) of every token with c = log pi(y), without gradient."""
    return _reinforce(tokens, tokens.sum_of(tokens.logprobs))


@implements(TokenConfidence)
def token_confidence(parameters: TokenConfidence, tokens: PolicyTokens) -> TokenLosses:
    """-(c - mean of the others' c) log pi(y_t) of every token with c = -sum_t H_t, without gradient."""
    return _reinforce(tokens, -_entropy(tokens).sum(dim=1, keepdim=True))


def _entropy(tokens: PolicyTokens) -> Tensor:
    if tokens.entropy is None:
        raise ValueError("entropy minimization needs the entropy of every token")
    return tokens.inside(tokens.entropy)


def _reinforce(tokens: PolicyTokens, confidence: Tensor) -> TokenLosses:
    """REINFORCE with `confidence` [B, 1] as reward and the group's others as baseline; 0 for a group of one."""
    if tokens.groups is None:
        raise ValueError("entropy minimization needs groups")
    reward = confidence.detach()[:, 0]
    same = tokens.groups[:, None] == tokens.groups[None, :]
    others = same.sum(dim=1) - 1
    baseline = (same.to(reward) @ reward - reward) / others.clamp(min=1)
    advantages = torch.where(others > 0, reward - baseline, 0.0)[:, None]
    losses = -advantages * tokens.inside(tokens.logprobs)
    return losses, {"confidence": Metric.mean_of(reward)}
