"""Aggregation: shares of any split add up to the definition over the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.objectives.aggregation import constant, sequence_mean, sequence_mean_of_token_mean, token_mean
from plumbline_trainer.reporting.metrics import Metric, merge

lengths_of_batch = st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any)


def batch_of(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    losses = torch.randn(len(lengths), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(len(lengths)))
    return losses, torch.arange(6) < torch.tensor(lengths)[:, None]


def shares(
    split: list[int], losses: torch.Tensor, mask: torch.Tensor, share: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """The sum of the shares of parts: row i goes to part `split[i]`."""
    parts = torch.tensor(split[: len(losses)])
    return torch.stack([share(losses[parts == p], mask[parts == p]) for p in parts.unique()]).sum()


splits = st.lists(st.integers(0, 3), min_size=8, max_size=8)


@given(lengths_of_batch, splits)
def test_every_aggregation_equals_its_definition_for_every_split(lengths: list[int], split: list[int]) -> None:
    losses, mask = batch_of(lengths)
    rows = [losses[i, :n] for i, n in enumerate(lengths)]
    count, total = len(rows), sum(lengths)
    per_row = [float(row.mean()) if len(row) else 0.0 for row in rows]

    got = shares(split, losses, mask, lambda x, m: token_mean(x, m, tokens=total))
    assert got.item() == pytest.approx(float(torch.cat(rows).mean()))
    got = shares(split, losses, mask, lambda x, m: sequence_mean_of_token_mean(x, m, sequences=count))
    assert got.item() == pytest.approx(sum(per_row) / count)
    got = shares(split, losses, mask, lambda x, m: constant(x, m, sequences=count, tokens_each=10))
    assert got.item() == pytest.approx(sum(float(row.sum()) / 10 for row in rows) / count)
    got = shares(split, losses, mask, lambda x, m: sequence_mean(x[:, 0], sequences=count))
    assert got.item() == pytest.approx(float(losses[:, 0].mean()))


@given(lengths_of_batch, splits)
def test_metrics_do_not_depend_on_the_split(lengths: list[int], split: list[int]) -> None:
    losses, mask = batch_of(lengths)
    parts = torch.tensor(split[: len(losses)])
    merged = merge({"loss": Metric.mean_of(losses[parts == p], mask[parts == p])} for p in parts.unique())
    assert merged["loss"].value == pytest.approx(Metric.mean_of(losses, mask).value)


def test_nothing_leaks_out_of_padding_not_even_what_is_not_finite() -> None:
    losses = torch.tensor([[1.0, float("nan")], [3.0, float("inf")]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, False]])
    for share in (
        token_mean(losses, mask, tokens=2),
        sequence_mean_of_token_mean(losses, mask, sequences=2),
        constant(losses, mask, sequences=2, tokens_each=1),
    ):
        assert share.item() == 2
        (gradient,) = torch.autograd.grad(share, losses)
        assert gradient.tolist() == [[0.5, 0.0], [0.5, 0.0]]
