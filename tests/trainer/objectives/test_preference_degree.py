"""The preference-degree loss: numbers worked out by hand, weight 0, gradients, and what it adds to an objective."""

from __future__ import annotations

import math
import re

import pytest
import torch

from plumbline_api.methods.auxiliary import AuxiliaryLoss, AuxiliaryLossChoice, PreferenceDegree
from plumbline_api.methods.preference.direct import Dpo
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.preference_degree import AUXILIARY_LOSSES, preference_degree
from tests.trainer.objectives.records import pairs_of, vector


def test_by_hand() -> None:
    """Chosen: logits (0, log 3), degree 1: probability 3/4. Rejected: (0, 0), degree 0: 1/2, a tie of two.

    0.1 (log 4/3 + log 2) = 0.1 log(8/3).
    """
    logits = torch.stack([vector(0, math.log(3)), vector(0, 0)])[None]
    losses, metrics = preference_degree(PreferenceDegree(levels=2), logits, torch.tensor([[1, 0]]))
    assert losses.tolist() == pytest.approx([0.1 * math.log(8 / 3)], abs=1e-14)
    assert metrics["degree/loss"].value == pytest.approx(math.log(8 / 3) / 2)
    assert metrics["degree/accuracy"].value == pytest.approx(0.75)


def test_a_head_that_knows_nothing_has_the_log_of_the_number_of_levels() -> None:
    degrees = torch.tensor([[0], [3], [2]])
    losses, metrics = preference_degree(PreferenceDegree(weight=1), torch.zeros(3, 1, 4), degrees)
    assert losses.tolist() == pytest.approx([math.log(4)] * 3)
    assert metrics["degree/accuracy"].value == 0.25


def test_rows_do_not_depend_on_each_other() -> None:
    logits = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    degrees = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0], [2, 1]])
    together, _ = preference_degree(PreferenceDegree(levels=3), logits, degrees)
    for row in range(5):
        alone, _ = preference_degree(PreferenceDegree(levels=3), logits[row : row + 1], degrees[row : row + 1])
        assert alone.item() == together[row].item()


def test_weight_0_is_the_objective_exactly_in_value_and_gradient() -> None:
    chosen, rejected = vector(-3, -9).requires_grad_(), vector(-4, -8).requires_grad_()
    pairs = pairs_of(chosen, rejected, reference_chosen=vector(-3, -7), reference_rejected=vector(-2, -9))
    logits = torch.stack([chosen, rejected], dim=1)[..., None] * vector(1, 2, 3, 4)
    added, _ = preference_degree(PreferenceDegree(weight=0), logits, torch.tensor([[0, 3], [1, 2]]))
    plain, _ = dpo(Dpo(), pairs)
    assert torch.equal(plain + added, plain)
    found = torch.autograd.grad((plain + added).sum(), [chosen, rejected], retain_graph=True)
    expected = torch.autograd.grad(plain.sum(), [chosen, rejected])
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_gradients_equal_finite_differences() -> None:
    logits = torch.randn(2, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    degrees = torch.tensor([[0, 3], [1, 2]])
    torch.autograd.gradcheck(lambda z: preference_degree(PreferenceDegree(), z, degrees)[0], [logits])


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]], requires_grad=True)
    losses, _ = preference_degree(PreferenceDegree(levels=2, weight=1), logits, torch.tensor([[1, 1]]))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.item() == pytest.approx(2e4)
    assert gradient.isfinite().all()


def test_every_auxiliary_loss_of_the_api_is_implemented_and_names_its_paper() -> None:
    assert AUXILIARY_LOSSES.missing() == []
    for method in AuxiliaryLoss.members():
        documentation = AUXILIARY_LOSSES.of(method()).__doc__ or ""
        papers = re.findall(r"arXiv:\d{4}\.\d{5}", method.__doc__ or "")
        assert papers and all(paper in documentation for paper in papers)
    assert AuxiliaryLossChoice.of("preferenceDegree", levels=8).value == PreferenceDegree(levels=8)
