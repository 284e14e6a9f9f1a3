"""Sums along completions from the end to the beginning, and normalisation over the tokens of a rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_trainer.rollout.judged import JudgedRollout


def backward_sums(terms: Tensor, factors: Tensor | float) -> Tensor:
    """a_t = terms_t + factors_t a_{t+1} along the last dimension, with 0 after the end; shapes [N, T].

    In log2(T) passes over the whole table: after k of them a_t holds the first 2^k terms and the factor is the
    product of 2^k factors, so two neighbouring blocks combine like two single elements.
    """
    sums = terms.clone()
    products = torch.as_tensor(factors, dtype=terms.dtype, device=terms.device).expand(terms.shape).clone()
    reach = 1
    while reach < terms.shape[1]:
        sums[:, :-reach] += products[:, :-reach] * sums[:, reach:].clone()
        products[:, :-reach] *= products[:, reach:].clone()
        products[:, -reach:] = 0
        reach *= 2
    return sums


def token_rewards(rollout: JudgedRollout) -> Tensor:
    """[N, T] float64: the reward at each completion's last token, plus rewards of single tokens; 0 where not valid."""
    mask = rollout.mask & rollout.valid[:, None]
    rewards = torch.zeros(mask.shape, dtype=torch.float64)
    written = rollout.valid & (rollout.lengths > 0)
    rewards[written, rollout.lengths[written] - 1] = rollout.rewards[written].double()
    if rollout.token_rewards is not None:
        rewards = rewards + rollout.token_rewards
    return torch.where(mask, rewards, 0.0)


def whitened(values: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(values - mean) / std over the tokens where `mask` is true, both [N, T]; 0 elsewhere.

    The variance is that of the population and at least `epsilon`. Values that are all the same give exactly 0.
    """
    chosen = values[mask]
    if not len(chosen) or bool((chosen == chosen[0]).all()):
        return torch.zeros_like(values)
    variance = chosen.var(correction=0).clamp(min=epsilon)
    return torch.where(mask, (values - chosen.mean()) / variance.sqrt(), 0.0)
