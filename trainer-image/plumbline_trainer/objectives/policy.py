"""Policy-gradient objectives on the log-probabilities of sampled tokens.

Each takes its parameters, a `PolicyTokens` and the step's `StepCounts`, and returns its share of the step's loss, to
be minimised, and metrics. Shares of all micro-batches and ranks add up to the loss of the step. All tensors are
[B, T]: B completions, T tokens; positions outside `mask` are ignored whatever they hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plumbline_api.methods.policy import ClippedRatioObjective, DrGrpo, Grpo, Reinforce
from plumbline_trainer.objectives.aggregation import constant, sequence_mean, sequence_mean_of_token_mean
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@dataclass(frozen=True)
class PolicyTokens:
    """A micro-batch of completions as an objective sees it."""

    logprobs: Tensor
    """[B, T] under the policy, at the sampling temperature; carries the gradient."""

    old_logprobs: Tensor | None
    """[B, T] under the policy that sampled; None where that is the policy as it is now, so that every ratio is 1."""

    reference_logprobs: Tensor | None
    """[B, T] under the reference; None where the objective has no KL penalty."""

    advantages: Tensor
    """[B]: the same for all tokens of a completion."""

    mask: Tensor
    """[B, T] bool: true at tokens of the completion."""


@dataclass(frozen=True)
class StepCounts:
    """What losses are divided by: known before the first micro-batch, the same on every rank."""

    sequences: float
    """Completions with a reward in this step, over all ranks; those without signal count as well."""

    max_completion_tokens: int
    """The longest completion that the job allows."""


Share = tuple[Tensor, dict[str, Metric]]
"""A share of the step's loss (scalar, differentiable) and metrics of the micro-batch."""


@implements(Grpo)
def grpo(parameters: Grpo, tokens: PolicyTokens, step: StepCounts) -> Share:
    """Mean over completions of the mean over tokens (Shao et al. 2024, arXiv:2402.03300, eq. 3)."""
    losses, metrics = clipped_ratio(parameters, tokens)
    return sequence_mean_of_token_mean(losses, tokens.mask, sequences=step.sequences), metrics


@implements(DrGrpo)
def dr_grpo(parameters: DrGrpo, tokens: PolicyTokens, step: StepCounts) -> Share:
    """Mean over completions of the token sum over a constant (Liu et al. 2025, arXiv:2503.20783, sec. 3.2).

    Dividing by the completion's own length, as GRPO does, makes long wrong completions cheap; a constant does not.
    """
    losses, metrics = clipped_ratio(parameters, tokens)
    each = float(parameters.normalization_tokens or step.max_completion_tokens)
    return constant(losses, tokens.mask, sequences=step.sequences, tokens_each=each), metrics


@implements(Reinforce)
def reinforce(parameters: Reinforce, tokens: PolicyTokens, step: StepCounts) -> Share:
    """Mean over completions of -A log pi(y | x) (Ahmadian et al. 2024, arXiv:2402.14740, eq. 6).

    Differs from an unclipped ratio only away from the sampling policy, where this objective is not used.
    """
    losses = -tokens.advantages[:, None] * tokens.logprobs
    penalty, metrics = kl_penalty(parameters.kl_coefficient, tokens)
    losses = torch.where(tokens.mask, losses + penalty, 0.0)
    return sequence_mean(losses.sum(dim=1), sequences=step.sequences), metrics


def clipped_ratio(parameters: ClippedRatioObjective, tokens: PolicyTokens) -> Share:
    """Per-token loss [B, T]: -min(r A, clip(r, 1 - low, 1 + high) A) + KL penalty.

    r is the ratio of the token's probability under the policy to that under the sampling policy (PPO's surrogate:
    Schulman et al. 2017, arXiv:1707.06347, eq. 7; separate bounds: Yu et al. 2025, arXiv:2503.14476, eq. 10). The clip
    metrics count the tokens whose gradient the clipping switches off, at each bound.
    """
    old = tokens.logprobs.detach() if tokens.old_logprobs is None else tokens.old_logprobs
    log_ratio = torch.where(tokens.mask, tokens.logprobs - old, 0.0)
    ratio = log_ratio.exp()
    low, high = 1.0 - parameters.clip_low, 1.0 + parameters.clip_high
    advantages = tokens.advantages[:, None]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    penalty, metrics = kl_penalty(parameters.kl_coefficient, tokens)
    metrics["ratio"] = Metric.mean_of(ratio, tokens.mask)
    metrics["clip_share/low"] = Metric.mean_of(((ratio < low) & (advantages < 0)).float(), tokens.mask)
    metrics["clip_share/high"] = Metric.mean_of(((ratio > high) & (advantages > 0)).float(), tokens.mask)
    return torch.where(tokens.mask, penalty - surrogate, 0.0), metrics


def kl_penalty(coefficient: float, tokens: PolicyTokens) -> Share:
    """Per-token penalty [B, T] towards the reference: coefficient (e^d - d - 1), d = log pi_ref - log pi.

    The k3 estimator (Schulman 2020, "Approximating KL divergence"): its mean over samples of the policy is the KL
    divergence, and it is never negative. Used as a loss, as in GRPO (arXiv:2402.03300, eq. 4).
    """
    if tokens.reference_logprobs is None:
        if coefficient:
            raise ValueError("a KL penalty needs log-probabilities of the reference")
        return torch.zeros_like(tokens.logprobs), {}
    difference = torch.where(tokens.mask, tokens.reference_logprobs - tokens.logprobs, 0.0)
    k3 = difference.exp() - difference - 1
    return coefficient * k3, {"kl": Metric.mean_of(k3, tokens.mask)}
