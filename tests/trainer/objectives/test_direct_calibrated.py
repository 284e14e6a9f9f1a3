"""NCA, APO and SPPO: numbers by hand, optima of each side by itself, independent forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.calibrated import ApoDown, ApoZero, Nca, Sppo
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_trainer.objectives.preference.calibrated import apo_down, apo_zero, nca, sppo
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.objectives.records import pair, pairs_of, vector

reward = st.floats(-6, 6)


def gradients(parameters: PreferenceObjective, chosen: float, rejected: float) -> tuple[float, float]:
    """d loss / d h of both sides at the given log-ratios."""
    sides = [vector(chosen).requires_grad_(), vector(rejected).requires_grad_()]
    pairs = pairs_of(*sides, reference_chosen=vector(0), reference_rejected=vector(0))
    found = torch.autograd.grad(
        implementation_of(parameters)(parameters, pairs)[0].sum(), sides, materialize_grads=True
    )
    return found[0].item(), found[1].item()


def test_by_hand() -> None:
    """h = (2, -4), beta 0.5: r = (1, -2). s(1) = 0.7310586, s(2) = 0.8807971, s(3) = 0.9525741.

    NCA: 0.3132617 + 1.3132617 / 2 + 0.1269280 / 2 = 1.0333565. APO zero: 0.2689414 + 0.1192029 = 0.3881443.
    APO down: 0.7310586 + 0.0474259 = 0.7784845. SPPO: (2 - 1)^2 + (-4 + 1)^2 = 10.
    """
    given_pair = pair(-4, -14, -6, -10)
    assert nca(Nca(beta=0.5), given_pair)[0].item() == pytest.approx(1.0333565, abs=1e-6)
    assert apo_zero(ApoZero(beta=0.5), given_pair)[0].item() == pytest.approx(0.3881443, abs=1e-6)
    assert apo_down(ApoDown(beta=0.5), given_pair)[0].item() == pytest.approx(0.7784845, abs=1e-6)
    losses, metrics = sppo(Sppo(beta=0.5), given_pair)
    assert losses.item() == pytest.approx(10)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == (1, -2)


@given(reward, reward)
def test_in_probabilities(chosen: float, rejected: float) -> None:
    """Each loss from the probabilities p = s(r) that a completion is good, and the tanh form of a sigmoid."""
    given_pair = pair(chosen, rejected, 0, 0)
    p, q = (1 / (1 + math.exp(-r)) for r in (chosen, rejected))
    assert nca(Nca(beta=1), given_pair)[0].item() == pytest.approx(
        -math.log(p * math.sqrt((1 - p) * (1 - q))), rel=1e-9
    )
    assert apo_zero(ApoZero(beta=1), given_pair)[0].item() == pytest.approx(
        1 - (math.tanh(chosen / 2) - math.tanh(rejected / 2)) / 2, rel=1e-9, abs=1e-12
    )
    wins = p * (1 - q) / (p * (1 - q) + (1 - p) * q)
    assert apo_down(ApoDown(beta=1), given_pair)[0].item() == pytest.approx(p + 1 - wins, rel=1e-9, abs=1e-12)


def test_nca_holds_the_chosen_reward_at_log_two_and_lets_the_rejected_one_fall() -> None:
    """-log p - log(1 - p)/2 is smallest at p = 2/3, which is r = log 2."""
    for rejected in (-3.0, 0.0, 3.0):
        chosen_slope, rejected_slope = gradients(Nca(beta=0.5), math.log(2) / 0.5, rejected)
        assert chosen_slope == pytest.approx(0, abs=1e-12) and rejected_slope > 0
    assert gradients(Nca(beta=0.5), 5.0, 0.0)[0] > 0 > gradients(Nca(beta=0.5), 1.0, 0.0)[0]


def test_nca_is_its_form_for_k_completions_with_hard_scores() -> None:
    """-sum_k [softmax(s / a)_k log s(r_k) + 1/K log s(-r_k)] as a goes to 0, with s = (1, 0)."""
    rewards = vector(0.7, -1.1)
    weights = torch.softmax(vector(1, 0) / 1e-3, dim=0)
    expected = -(weights * torch.sigmoid(rewards).log() + torch.sigmoid(-rewards).log() / 2).sum()
    assert nca(Nca(beta=1), pair(0.7, -1.1, 0, 0))[0].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("beta", [0.001, 0.1, 2.0])
def test_sppo_s_optimum_is_a_reward_of_one_half_on_either_side(beta: float) -> None:
    target = 1 / (2 * beta)
    losses, metrics = sppo(Sppo(beta=beta), pair(target, -target, 0, 0))
    assert losses.item() == pytest.approx(0, abs=1e-12)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == pytest.approx((0.5, -0.5))
    assert gradients(Sppo(beta=beta), target, -target) == pytest.approx((0, 0))


def test_sppo_is_a_step_of_multiplicative_weights() -> None:
    """Two answers of which one always wins: pi_new is pi exp(eta p) / Z with p = (1, 0). The
    loss approximates log Z by its value for a fair win rate, eta/2, and its optimum has the same ratio of answers."""
    beta = 0.5
    old = torch.log_softmax(vector(0.3, -0.2), dim=0)
    new = old + vector(1, -1) / (2 * beta)
    assert sppo(Sppo(beta=beta), pair(*new.tolist(), *old.tolist()))[0].item() == pytest.approx(0, abs=1e-12)
    exact = torch.log_softmax(old + vector(1, 0) / beta, dim=0)
    assert (new[0] - new[1]).item() == pytest.approx((exact[0] - exact[1]).item())


@given(reward, reward)
def test_apo_pulls_in_the_directions_that_its_names_promise(chosen: float, rejected: float) -> None:
    """Zero raises the chosen and lowers the rejected answer; down lowers the rejected one and, near the reference,
    where it starts, the chosen one by less."""
    up, down = gradients(ApoZero(beta=1), chosen, rejected)
    assert up < 0 < down
    assert gradients(ApoDown(beta=1), chosen, rejected)[1] > 0
    at_the_start = gradients(ApoDown(beta=1), 0, 0)
    assert at_the_start == pytest.approx((0, 0.25)), "the chosen answer's two pulls cancel at the reference"
    assert gradients(ApoDown(beta=1), 0, -1)[0] > 0, "and lower it as soon as the pair is in order"


@pytest.mark.parametrize("parameters", [Nca(), ApoZero(), ApoDown(), Sppo(beta=0.2)])
def test_they_say_where_both_answers_stand_and_not_only_how_far_apart(parameters: Any) -> None:
    function = implementation_of(parameters)
    losses = [function(parameters, pair(1 + shift, -1 + shift, 0, 0))[0].item() for shift in (0.0, 5.0)]
    assert abs(losses[1] - losses[0]) > 1e-3


def test_at_the_start_each_has_its_known_value() -> None:
    start = pair(-3, -5, -3, -5)
    for parameters, value in ((Nca(), 2 * math.log(2)), (ApoZero(), 1), (ApoDown(), 1), (Sppo(beta=0.1), 50)):
        losses, metrics = implementation_of(parameters)(parameters, start)
        assert losses.item() == pytest.approx(value) and metrics["rewards/accuracy"].value == 0.5
