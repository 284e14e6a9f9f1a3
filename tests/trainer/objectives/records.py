"""Inputs of objectives from plain numbers, for the tests of objectives."""

from __future__ import annotations

import torch

from plumbline_trainer.objectives.preference.inputs import Completions, Pairs, Scores, TokenLogprobs, Unpaired


def vector(*values: float) -> torch.Tensor:
    """[n] float64."""
    return torch.tensor(values, dtype=torch.float64)


def pairs_of(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_tokens: torch.Tensor | None = None,
    rejected_tokens: torch.Tensor | None = None,
    reference_chosen: torch.Tensor | None = None,
    reference_rejected: torch.Tensor | None = None,
    chosen_score: torch.Tensor | None = None,
    rejected_score: torch.Tensor | None = None,
) -> Pairs:
    """Pairs from sequence log-probabilities `[B]`; completions are one token long unless said otherwise."""
    one = torch.ones_like(chosen.detach())
    return Pairs(
        Completions(chosen, one if chosen_tokens is None else chosen_tokens, reference_chosen, chosen_score),
        Completions(rejected, one if rejected_tokens is None else rejected_tokens, reference_rejected, rejected_score),
    )


def pair(
    chosen: float,
    rejected: float,
    reference_chosen: float,
    reference_rejected: float,
    lengths: tuple[int, int] = (1, 1),
) -> Pairs:
    """One pair from numbers."""
    return pairs_of(
        vector(chosen),
        vector(rejected),
        vector(lengths[0]),
        vector(lengths[1]),
        vector(reference_chosen),
        vector(reference_rejected),
    )


def unpaired_of(
    completion: torch.Tensor, reference: torch.Tensor, desirable: torch.Tensor, point: torch.Tensor | None = None
) -> Unpaired:
    """Unpaired completions of one token from log-probabilities `[B]`."""
    return Unpaired(Completions(completion, torch.ones_like(completion.detach()), reference), desirable, point)


def unpaired(log_ratio: float, desirable: bool, point: float) -> Unpaired:
    """One completion from numbers."""
    return unpaired_of(
        vector(log_ratio - 3), vector(-3), torch.tensor([desirable]), torch.tensor(point, dtype=torch.float64)
    )


def scores_of(*columns: torch.Tensor, labels: torch.Tensor | None = None) -> Scores:
    """Scores of K completions a row from K columns `[B]`."""
    values = torch.stack(columns, dim=1)
    return Scores(values, torch.ones_like(values, dtype=torch.bool), labels)


def completions_by_token(
    policy: torch.Tensor, mask: torch.Tensor, reference: torch.Tensor | None = None
) -> Completions:
    """Completions from log-probabilities of tokens `[B, T]`."""
    totals = None if reference is None else (reference * mask).sum(dim=1)
    tokens = TokenLogprobs(policy, mask, reference)
    return Completions((policy * mask).sum(dim=1), mask.sum(dim=1).to(policy.dtype), totals, by_token=tokens)
