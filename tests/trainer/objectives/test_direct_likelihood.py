"""RPO and iterative RPO: numbers by hand, limits, and what the likelihood is there for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.likelihood_anchored import IterativeRpo, Rpo
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.likelihood_anchored import iterative_rpo, rpo
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.objectives.records import pair, pairs_of

logprob = st.floats(-8, -0.01)


def test_by_hand() -> None:
    """h = (2, -4), beta 0.5: log(1 + e^-3) = 0.0485874; RPO adds 0.2 x 0.5 x 4 = 0.4, iterative RPO 0.2 x 4 / 2."""
    given_pair = pair(-4, -14, -6, -10, lengths=(2, 4))
    losses, metrics = rpo(Rpo(beta=0.5, eta=0.2), given_pair)
    assert losses.item() == pytest.approx(0.4485874, abs=1e-6) and metrics["loss/likelihood"].value == pytest.approx(
        0.4
    )
    losses, metrics = iterative_rpo(IterativeRpo(beta=0.5, alpha=0.2), given_pair)
    assert losses.item() == pytest.approx(0.4485874, abs=1e-6) and metrics["loss/likelihood"].value == pytest.approx(
        0.4
    )
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == (1, -2)


@given(logprob, logprob, logprob, logprob, st.integers(1, 30), st.floats(0.05, 2), st.floats(0, 3))
def test_as_a_product_of_probabilities(
    w: float, lose: float, rw: float, rl: float, length: int, beta: float, weight: float
) -> None:
    """-log of [win probability x pi(y_w)^weight], with the geometric mean of token probabilities for iterative RPO."""
    a, b = (math.exp(w) / math.exp(rw)) ** beta, (math.exp(lose) / math.exp(rl)) ** beta
    given_pair = pair(w, lose, rw, rl, (length, 7))
    losses = rpo(Rpo(beta=beta, eta=weight), given_pair)[0]
    assert losses.item() == pytest.approx(-math.log(a / (a + b) * math.exp(w) ** (weight * beta)), rel=1e-9)
    losses = iterative_rpo(IterativeRpo(beta=beta, alpha=weight), given_pair)[0]
    assert losses.item() == pytest.approx(-math.log(a / (a + b) * math.exp(w) ** (weight / length)), rel=1e-9)


@given(logprob, logprob, logprob, logprob, st.floats(0.05, 2))
def test_without_the_likelihood_both_are_dpo(w: float, lose: float, rw: float, rl: float, beta: float) -> None:
    given_pair = pair(w, lose, rw, rl, (3, 5))
    expected = dpo(Dpo(beta=beta), given_pair)[0]
    assert torch.equal(rpo(Rpo(beta=beta, eta=0), given_pair)[0], expected)
    assert torch.equal(iterative_rpo(IterativeRpo(beta=beta, alpha=0), given_pair)[0], expected)


@pytest.mark.parametrize("parameters", [Rpo(beta=0.5, eta=0.5), IterativeRpo(beta=0.5)], ids=lambda p: p.member_key)
def test_the_chosen_completion_falls_under_dpo_and_does_not_with_its_likelihood(parameters: Any) -> None:
    """A policy of four answers with two parameters, as if the answers shared most of their tokens: the chosen answer
    cannot be told from the rejected one without moving the other two as well. DPO separates the pair at the price of
    the chosen answer's own probability."""
    reference = torch.full((4,), math.log(0.25), dtype=torch.float64)
    features = torch.tensor([[1, -1], [-1, -2], [0, 1], [0, 2]], dtype=torch.float64)

    def trained(objective: Any) -> float:
        weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        for _ in range(200):
            policy = torch.log_softmax(features @ weights, dim=0)
            pairs = pairs_of(policy[:1], policy[1:2], reference_chosen=reference[:1], reference_rejected=reference[1:2])
            losses = implementation_of(objective)(objective, pairs)[0]
            (gradient,) = torch.autograd.grad(losses.sum(), weights)
            weights = (weights - 0.5 * gradient).detach().requires_grad_()
        return (torch.log_softmax(features @ weights, dim=0)[0] - reference[0]).item()

    assert trained(Dpo(beta=0.5)) < -0.5
    assert trained(parameters) > 0
