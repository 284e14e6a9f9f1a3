"""From per-token or per-row losses to the scalar that is differentiated: sums divided by global counts.

Every count covers the whole optimizer step, over all micro-batches and ranks, and is known before the first
micro-batch. The shares of all micro-batches and ranks therefore add up to one number that does not depend on how the
step was split. Dividing by a micro-batch's own count instead gives rows in small or short micro-batches more weight.
"""

from __future__ import annotations

import torch


def token_mean(losses: torch.Tensor, mask: torch.Tensor, *, tokens: float) -> torch.Tensor:
    """Share of the mean over all tokens: sum of `losses` [B, T] where `mask` [B, T], over the step's `tokens`."""
    return _masked(losses, mask).sum() / tokens


def sequence_mean(losses: torch.Tensor, *, sequences: float) -> torch.Tensor:
    """Share of the mean over all sequences (or rows): sum of `losses` [B] over the step's `sequences`."""
    return losses.sum() / sequences


def sequence_mean_of_token_mean(losses: torch.Tensor, mask: torch.Tensor, *, sequences: float) -> torch.Tensor:
    """Share of the mean over sequences of each sequence's mean over its tokens (`losses`, `mask`: [B, T]).

    A sequence without tokens contributes 0 and still counts.
    """
    lengths = mask.sum(dim=1).clamp(min=1)
    return (_masked(losses, mask).sum(dim=1) / lengths).sum() / sequences


def constant(losses: torch.Tensor, mask: torch.Tensor, *, sequences: float, tokens_each: float) -> torch.Tensor:
    """Share of the mean over sequences of each sequence's token sum over the constant `tokens_each`.

    Unlike a token mean it gives a token the same weight whatever the length of its sequence.
    """
    return _masked(losses, mask).sum() / (sequences * tokens_each)


def _masked(losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`losses` with exact zeros where `mask` is false, so that nothing non-finite leaks out of padding."""
    return torch.where(mask, losses, torch.zeros((), dtype=losses.dtype, device=losses.device))
