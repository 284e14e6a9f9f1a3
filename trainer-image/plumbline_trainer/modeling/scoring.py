"""One number per sequence over a whole data set, without gradients: reference passes and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import nn

from plumbline_trainer.data.batches import Layout, SequenceBatch, TokenSequence
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
def score_rows(
    score: Callable[[SequenceBatch], torch.Tensor],
    rows: Sequence[Sequence[TokenSequence]],
    layout: Layout,
    ranks: Ranks,
    *,
    by_token: bool = False,
) -> torch.Tensor:
    """`score` of every sequence of every row, in order: [S] float32 on the CPU, on every rank.

    `score` gives a number for each of a batch's B sequences, `[B]`, or, `by_token`, for each of their completion
    tokens, `[N]`; the result then holds the numbers of all completion tokens. Passes are dealt out over the ranks.
    Which rows share a pass depends on their lengths alone, so a second call with the same parameters gives the same
    bits. May raise `StopRequested` between passes.
    """
    sizes = [sum(len(s.completion_ids) for s in row) if by_token else len(row) for row in rows]
    first = [0, *accumulate(sizes)]
    scores = torch.zeros(first[-1], dtype=torch.float32)
    passes = layout.passes([layout.size(row) for row in rows])
    for group in passes[ranks.rank :: ranks.world_size]:
        ranks.stop.raise_if_requested()
        batch = layout.batch([rows[row] for row in group]).to(ranks.device)
        places = torch.cat([torch.arange(first[row], first[row + 1]) for row in group])
        scores[places] = score(batch).float().cpu()
    return ranks.sum(scores)
