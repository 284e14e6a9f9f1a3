"""VRPO against numbers worked out by hand, DPO on the same numbers, and its bias bound under noisy estimates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.diffusion import Vrpo
from plumbline_api.methods.preference.direct import Dpo
from plumbline_trainer.objectives.preference.diffusion import vrpo
from plumbline_trainer.objectives.preference.direct import dpo
from tests.trainer.objectives.records import pair, pairs_of, vector

bound = st.floats(-40, -0.01)


def test_by_hand() -> None:
    """B - B_ref = (3, -2); 0.2 x 5 = 1: log(1 + e^-1) = 0.3132617."""
    losses, metrics = vrpo(Vrpo(), pair(-7, -12, -10, -10))
    assert losses.tolist() == pytest.approx([0.31326168751822286], abs=1e-12)
    assert metrics["rewards/chosen"].value == pytest.approx(0.6)
    assert metrics["rewards/rejected"].value == pytest.approx(-0.4)
    assert metrics["rewards/accuracy"].value == 1


@given(bound, bound, bound, bound, st.floats(0.01, 3))
def test_with_exact_likelihoods_it_is_dpo(w: float, lose: float, rw: float, rl: float, beta: float) -> None:
    given_pair = pair(w, lose, rw, rl)
    assert torch.equal(vrpo(Vrpo(beta=beta), given_pair)[0], dpo(Dpo(beta=beta), given_pair)[0])


@given(st.floats(-5, 5), st.floats(0.01, 4))
def test_noise_adds_at_most_an_eighth_of_the_margin_s_variance(margin: float, error: float) -> None:
    """Errors of +error and -error, equally likely, have no bias and the variance error^2."""
    losses, _ = vrpo(
        Vrpo(beta=1),
        pairs_of(
            vector(margin, margin + error, margin - error),
            vector(0, 0, 0),
            reference_chosen=vector(0, 0, 0),
            reference_rejected=vector(0, 0, 0),
        ),
    )
    exact, above, below = losses.tolist()
    added = (above + below) / 2 - exact
    assert -1e-12 <= added <= error**2 / 8 + 1e-12


def test_gradients_equal_finite_differences() -> None:
    values = [vector(-3, -9), vector(-4, -8), vector(-3.5, -7), vector(-2, -11)]
    torch.autograd.gradcheck(
        lambda w, r, rw, rr: vrpo(Vrpo(), pairs_of(w, r, reference_chosen=rw, reference_rejected=rr))[0],
        [value.requires_grad_() for value in values],
    )


def test_extreme_margins_stay_finite() -> None:
    for margin in (-1e4, 1e4):
        chosen = vector(margin).requires_grad_()
        pairs = pairs_of(chosen, vector(0), reference_chosen=vector(0), reference_rejected=vector(0))
        losses, _ = vrpo(Vrpo(beta=1), pairs)
        (gradient,) = torch.autograd.grad(losses.sum(), chosen)
        assert losses.item() == pytest.approx(max(0.0, -margin))
        assert math.isfinite(gradient.item())
