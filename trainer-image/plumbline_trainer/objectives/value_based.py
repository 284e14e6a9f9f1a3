"""Value-based learning of token policies: temporal differences on logits.

B-Coder ("B-Coder: Value-Based Deep Reinforcement Learning for Program Synthesis", Yu et al. 2023, arXiv:2310.03173). A
language model's logits are advantages up to a scale: Q(s,a) = alpha (l(s,a) - max_a l(s,a)) + V(s), so its greedy
policy is the model's from the start. The conservative backup evaluates the initial greedy policy mu instead of
improving on itself: r + gamma Q(s', mu(s')), which does not overestimate and keeps programs of people, off-policy as
they are, usable.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
