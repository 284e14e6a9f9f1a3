"""Value-based learning of token policies: the optimal KL-regularized value by classification.

Q# ("Qsharp: Provably Optimal Distributional RL for LLM Post-Training", Zhou et al. 2025, arXiv:2502.20548). The policy
that maximises E[R] - eta KL(pi || pi_ref) is pi(a|s) = pi_ref(a|s) exp(Q(s,a)/eta) / Z with

    Q(s, a) = eta log E_{pi_ref}[exp(R / eta) | s, a]

when transitions are deterministic, as those of text are: the expectation is over completions by the reference alone.
Its distribution is a Bernoulli with the success probability p(s, a) where R is 0 or 1, so a classifier of outcomes of
the reference is all there is to learn. States come from the guided policy of the round before, completions from the
reference.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def regularized_value(success_logits: Tensor, eta: float) -> Tensor:
    """eta log(1 - p + p e^(1/eta)) with p = sigmoid(`success_logits`), any shape: Q or V for rewards of 0 and 1.

    Computed in logs, so that no eta overflows: from p for large eta it goes to 1 + eta log p as eta falls to 0. Raises
    `ValueError` for an eta that is not positive.
    """
    _check_eta(eta)
    return eta * torch.logaddexp(logsigmoid(-success_logits), logsigmoid(success_logits) + 1 / eta)


def categorical_regularized_value(logits: Tensor, rewards: Tensor, eta: float) -> Tensor:
    """eta log sum_k p_k e^(r_k/eta) with p = softmax(`logits` [..., K]) over the values `rewards` [K]: Q or V [...]."""
    _check_eta(eta)
    return eta * (logits.log_softmax(dim=-1) + rewards / eta).logsumexp(dim=-1)


def guided_logits(reference_logits: Tensor, values: Tensor, eta: float, candidates: int | None = None) -> Tensor:
    """Logits [R, V] of the policy pi_ref exp(Q / eta) / Z, from the reference's and Q's `values` [R, V].

    With `candidates` only the reference's so many likeliest tokens of each row get their Q, and the others, whose
    values are not looked at, are ruled out: Q is then needed at few tokens. Raises `ValueError` for an eta that is not
    positive or fewer candidates than one.
    """
    _check_eta(eta)
    guided = reference_logits + values / eta
    if candidates is None:
        return guided
    if candidates < 1:
        raise ValueError("guided decoding needs at least one candidate")
    likeliest = reference_logits.topk(min(candidates, reference_logits.shape[-1]), dim=-1).indices
    kept = torch.zeros_like(reference_logits, dtype=torch.bool).scatter_(-1, likeliest, True)
    return torch.where(kept, guided, -torch.inf)


def outcome_loss(success_logits: Tensor, outcomes: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood [B, T] of outcomes, 0 outside `mask`: what fits p(s, a) to completions by the reference.

    `success_logits` [B, T] are the classifier's after each token; `outcomes` [B] are 0 or 1 and, as rewards come at the
    end only, the same for all tokens. Tokens before which the guided policy still wrote are left out by the mask.
    """
    logits = torch.where(mask, success_logits, 0.0)
    targets = outcomes.to(logits)[:, None].expand(logits.shape)
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return torch.where(mask, losses, 0.0)


def _check_eta(eta: float) -> None:
    if eta <= 0:
        raise ValueError(f"eta must be positive, not {eta}")
