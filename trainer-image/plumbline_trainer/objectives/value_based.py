"""Value-based learning of token policies: the optimal KL-regularized value by classification, and TD on logits.

Q# ("Qsharp: Provably Optimal Distributional RL for LLM Post-Training", Zhou et al. 2025, arXiv:2502.20548). The policy
that maximises E[R] - eta KL(pi || pi_ref) is pi(a|s) = pi_ref(a|s) exp(Q(s,a)/eta) / Z with

    Q(s, a) = eta log E_{pi_ref}[exp(R / eta) | s, a]

when transitions are deterministic, as those of text are: the expectation is over completions by the reference alone.
Its distribution is a Bernoulli with the success probability p(s, a) where R is 0 or 1, so a classifier of outcomes of
the reference is all there is to learn. States come from the guided policy of the round before, completions from the
reference.

B-Coder ("B-Coder: Value-Based Deep Reinforcement Learning for Program Synthesis", Yu et al. 2023, arXiv:2310.03173). A
language model's logits are advantages up to a scale: Q(s,a) = alpha (l(s,a) - max_a l(s,a)) + V(s), so its greedy
policy is the model's from the start. The conservative backup evaluates the initial greedy policy mu instead of
improving on itself: r + gamma Q(s', mu(s')), which does not overestimate and keeps programs of people, off-policy as
they are, usable.
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


def dueling_values(logits: Tensor, state_values: Tensor, scale: float) -> Tensor:
    """Q [..., V] = scale (logits - max logits) + V(s), from `logits` [..., V] and `state_values` [...]; max_a Q = V."""
    return scale * (logits - logits.amax(dim=-1, keepdim=True)) + state_values[..., None]


def conservative_targets(
    rewards: Tensor, next_values: Tensor, fixed_logits_after: Tensor, ended: Tensor, discount: float
) -> Tensor:
    """r + gamma Q(s', argmax_a q_fixed(s', a)) of every token [B, T], r where the episode `ended`; without gradient.

    `next_values` [B, T, V] are Q of the state after each token, `fixed_logits_after` [B, T, V] those of the frozen
    initial policy, whose greedy action is evaluated.
    """
    greedy = fixed_logits_after.argmax(dim=-1, keepdim=True)
    ahead = next_values.detach().gather(-1, greedy)[..., 0]
    return rewards + discount * torch.where(ended, 0.0, ahead)


def temporal_difference_loss(taken_values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """(Q(s, a) - target)^2 / 2 of every token [B, T], 0 outside `mask`; the target has no gradient."""
    return torch.where(mask, (taken_values - targets.detach()).square() / 2, 0.0)


def implied_rewards(taken_values: Tensor, next_state_values: Tensor, ended: Tensor, discount: float) -> Tensor:
    """Q(s, a) - gamma max_a' Q(s', a') of every token [B, T]: the rewards that make a learnt Q optimal.

    `next_state_values` [B, T] are the maxima after each token, which count as 0 where the episode `ended`. For an exact
    optimal Q these are the rewards themselves; of a candidate program they say what the value function thinks of it.
    """
    return taken_values - discount * torch.where(ended, 0.0, next_state_values)


def candidate_scores(rewards: Tensor, mask: Tensor) -> Tensor:
    """[B] summed `rewards` [B, T] of each candidate: the largest is the one to keep of many samples."""
    return torch.where(mask, rewards, 0.0).sum(dim=1)


def _check_eta(eta: float) -> None:
    if eta <= 0:
        raise ValueError(f"eta must be positive, not {eta}")
