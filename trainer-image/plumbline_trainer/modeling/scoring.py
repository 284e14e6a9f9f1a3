"""One number per sequence over a whole data set, without gradients: reference passes and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from plumbline_trainer.data.batches import SequenceBatch, TokenSequence, micro_batches, pad_sequences
from plumbline_trainer.distributed import Ranks


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, the former mode after: an adapter's dropout must not touch numbers that stay."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def score_sequences(
    score: Callable[[SequenceBatch], torch.Tensor],
    sequences: Sequence[TokenSequence],
    *,
    pad_id: int,
    token_budget: int,
    max_rows: int | None = None,
    ranks: Ranks,
) -> torch.Tensor:
    """`score` (batch of B sequences -> `[B]`) of every sequence: `[len(sequences)]` float32 on the CPU, on every rank.

    Forward passes of at most `token_budget` padded tokens and `max_rows` rows are dealt out over the ranks. Which
    sequences share a pass depends on the lengths alone, so a second call with the same parameters gives the same
    bits. May raise `StopRequested` between passes.
    """
    scores = torch.zeros(len(sequences), dtype=torch.float32)
    lengths = [len(sequence) for sequence in sequences]
    groups = micro_batches(lengths, token_budget=token_budget, max_items=max_rows)
    for group in groups[ranks.rank :: ranks.world_size]:
        ranks.stop.raise_if_requested()
        batch = pad_sequences([sequences[item] for item in group], pad_id).to(ranks.device)
        scores[torch.tensor(group)] = score(batch).float().cpu()
    return ranks.sum(scores)
