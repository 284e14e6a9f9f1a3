"""Alignment via optimal transport: by hand, as a transport problem, against TRL, and however a step is split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.transport import Aot, AotUnpaired
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs
from plumbline_trainer.objectives.preference.transport import aot, aot_unpaired
from plumbline_trainer.objectives.registry import implementation_of
from plumbline_trainer.reporting.metrics import merge
from tests.trainer.objectives.records import pair, pairs_of, vector
from tests.trainer.objectives.trl_oracle import PairBatch, assert_same_loss, trl_dpo

METHODS: list[Any] = [Aot(), AotUnpaired(), Aot(beta=0.7, label_smoothing=0.2), AotUnpaired(label_smoothing=0.3)]
four = st.lists(st.floats(-5, 5), min_size=4, max_size=4)

CHOSEN, REJECTED = vector(-3, -9, -5, -6), vector(-4, -6, -7, -2)
REFERENCES = vector(-4, -7, -5.5, -4.75), vector(-4.5, -8, -6, -3.25)


def side(logprob: torch.Tensor, reference: torch.Tensor) -> Completions:
    return Completions(logprob, torch.ones_like(logprob.detach()), reference)


def as_step(pairs: Pairs) -> Pairs:
    """`pairs` as all rows of one step."""
    chosen, rejected = (replace(one, logprob=one.logprob.detach()) for one in (pairs.chosen, pairs.rejected))
    return replace(pairs, whole_step=Pairs(chosen, rejected), positions=torch.arange(len(chosen.logprob)))


def rows_of(pairs: Pairs, rows: list[int]) -> Pairs:
    """Some rows of a step, as a micro-batch has them."""
    assert pairs.positions is not None and pairs.chosen.reference is not None and pairs.rejected.reference is not None
    return replace(
        pairs,
        chosen=side(pairs.chosen.logprob[rows], pairs.chosen.reference[rows]),
        rejected=side(pairs.rejected.logprob[rows], pairs.rejected.reference[rows]),
        positions=pairs.positions[rows],
    )


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to split `rows` into groups."""
    if not rows:
        yield []
        return
    first, rest = rows[0], rows[1:]
    for parts in partitions(rest):
        yield [[first], *parts]
        for index, part in enumerate(parts):
            yield [*parts[:index], [first, *part], *parts[index + 1 :]]


def sorted_loss(parameters: Any, pairs: Pairs) -> torch.Tensor:
    """Scalar: the step's loss written down with sorts of the values that carry the gradient."""
    if isinstance(parameters, Aot):
        assert pairs.chosen.reference is not None and pairs.rejected.reference is not None
        better = pairs.chosen.logprob - pairs.rejected.logprob
        worse = pairs.chosen.reference - pairs.rejected.reference
    else:
        better, worse = pairs.chosen.log_ratio, pairs.rejected.log_ratio
    scaled = parameters.beta * (better.sort().values - worse.sort().values)
    flipped = parameters.label_smoothing
    return (-(1 - flipped) * logsigmoid(scaled) - flipped * logsigmoid(-scaled)).sum()


def test_aot_by_hand() -> None:
    """Margins (1, 5) and, under the reference, (4, 2): 1 meets 2 and 5 meets 4, so the differences are -1 and 1."""
    step = as_step(pairs_of(vector(-1, -1), vector(-2, -6), None, None, vector(-1, -1), vector(-5, -3)))
    losses, metrics = aot(Aot(beta=0.5), step)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(0.5)), math.log1p(math.exp(-0.5))], abs=1e-12)
    assert metrics["rewards/margin"].value == pytest.approx(0.5 * ((1 - 4) + (5 - 2)) / 2)


def test_aot_unpaired_by_hand() -> None:
    """h chosen (2, -1), rejected (0, -4): 2 meets 0 and -1 meets -4; f(2) and f(3), where DPO has f(2) and f(3) too.

    With the rejected completions exchanged, DPO has f(6) and f(-1), and the distributions are what they were.
    """
    straight = as_step(pairs_of(vector(2, -1), vector(0, -4), None, None, vector(0, 0), vector(0, 0)))
    crossed = as_step(pairs_of(vector(2, -1), vector(-4, 0), None, None, vector(0, 0), vector(0, 0)))
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))
    for step in (straight, crossed):
        assert aot_unpaired(AotUnpaired(beta=1), step)[0].sum().item() == pytest.approx(expected, abs=1e-12)
    assert dpo(Dpo(beta=1), straight)[0].sum().item() == pytest.approx(expected, abs=1e-12)
    assert dpo(Dpo(beta=1), crossed)[0].sum().item() > expected


@given(st.floats(-8, -0.01), st.floats(-8, -0.01), st.floats(-8, -0.01), st.floats(-8, -0.01))
def test_a_step_of_one_pair_is_dpo(w: float, lose: float, rw: float, rl: float) -> None:
    expected = dpo(Dpo(beta=0.1, label_smoothing=0.2), pair(w, lose, rw, rl))[0].item()
    for parameters in (Aot(label_smoothing=0.2), AotUnpaired(label_smoothing=0.2)):
        losses, _ = implementation_of(parameters)(parameters, as_step(pair(w, lose, rw, rl)))
        assert losses.item() == pytest.approx(expected, rel=1e-9)


@given(four, four)
def test_the_step_s_loss_is_the_cheapest_transport(chosen: list[float], rejected: list[float]) -> None:
    """No other matching of chosen and rejected log-ratios has a smaller sum of the logistic loss, which is convex."""
    zero = vector(0, 0, 0, 0)
    step = as_step(pairs_of(vector(*chosen), vector(*rejected), None, None, zero, zero))
    cheapest = min(
        sum(math.log1p(math.exp(-(a - b))) for a, b in zip(chosen, matched, strict=True))
        for matched in permutations(rejected)
    )
    assert aot_unpaired(AotUnpaired(beta=1), step)[0].sum().item() == pytest.approx(cheapest, rel=1e-9)


@pytest.mark.parametrize("parameters", METHODS, ids=repr)
def test_every_split_of_a_step_has_its_loss_its_gradient_and_its_metrics(parameters: Any) -> None:
    function = implementation_of(parameters)
    values = [CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()]
    whole = as_step(Pairs(side(values[0], REFERENCES[0]), side(values[1], REFERENCES[1])))
    expected = sorted_loss(parameters, whole)
    gradients = torch.autograd.grad(expected, values)
    assert all(gradient.abs().min() > 1e-3 for gradient in gradients)
    metrics = function(parameters, whole)[1]
    splits = list(partitions([2, 0, 3, 1]))
    assert len(splits) == 15
    for split in splits:
        parts = [function(parameters, rows_of(whole, rows)) for rows in split]
        total = torch.stack([losses.sum() for losses, _ in parts]).sum()
        assert total.item() == pytest.approx(expected.item(), rel=1e-12)
        for ours, theirs in zip(torch.autograd.grad(total, values), gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        merged = merge(metrics for _, metrics in parts)
        assert {n: m.value for n, m in merged.items()} == pytest.approx({n: m.value for n, m in metrics.items()})


@pytest.mark.parametrize("parameters", METHODS, ids=repr)
def test_gradients_equal_finite_differences_of_the_step_s_loss(parameters: Any) -> None:
    """Finite differences move the whole step too, so they also see what goes through partners of other rows."""

    def loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        step = as_step(Pairs(side(chosen, REFERENCES[0]), side(rejected, REFERENCES[1])))
        losses: torch.Tensor = implementation_of(parameters)(parameters, step)[0]
        return losses.sum()

    torch.autograd.gradcheck(loss, [CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()])


def test_rows_with_equal_values_share_their_partners() -> None:
    """Equal margins of the policy meet every reference margin of their ranks once, whoever gets which."""
    step = as_step(Pairs(side(vector(-1, -1, -1), vector(-1, -2, -3)), side(vector(-2, -2, -2), vector(-4, -3, -2))))
    losses, _ = aot(Aot(beta=1), step)
    expected = sorted(math.log1p(math.exp(-(1 - margin))) for margin in (3, 1, -1))
    assert sorted(losses.tolist()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("flipped", [0.0, 0.2])
@pytest.mark.parametrize("method", [Aot, AotUnpaired])
def test_equal_to_trl(method: Any, flipped: float, seed: int) -> None:
    batch = PairBatch.random(seed, rows=6)
    parameters = method(beta=0.3, label_smoothing=flipped)
    losses = implementation_of(parameters)(parameters, as_step(batch.pairs()))[0]
    name = {"aot": "aot", "aotUnpaired": "aot_unpaired"}[parameters.member_key]
    theirs = trl_dpo(batch, name, beta=0.3, label_smoothing=flipped)
    assert_same_loss(batch.policy, losses.mean(), theirs)


@pytest.mark.parametrize("parameters", METHODS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_margins_stay_finite(parameters: Any, dtype: torch.dtype) -> None:
    chosen = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    zero = torch.zeros(2, dtype=dtype)
    step = as_step(Pairs(side(chosen, zero), side(torch.zeros(2, dtype=dtype), zero)))
    losses = implementation_of(parameters)(parameters, step)[0]
    (gradient,) = torch.autograd.grad(losses.sum(), chosen)
    assert losses.isfinite().all() and gradient.isfinite().all()
    assert losses.dtype == dtype


def test_rows_without_their_step_or_labels_that_say_nothing_are_refused() -> None:
    for parameters in (Aot(), AotUnpaired()):
        with pytest.raises(ValueError, match="needs all pairs of the step"):
            implementation_of(parameters)(parameters, pair(-1, -2, -1, -2))
        with pytest.raises(ValidationError, match=r"labelSmoothing must be below 0\.5"):
            type(parameters)(label_smoothing=0.5)
