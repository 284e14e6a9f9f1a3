"""ODPO and Score-DPO: numbers by hand, probability forms, limits, ties and scores outside the range."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.scored import Odpo, ScoreDpo
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.inputs import Pairs
from plumbline_trainer.objectives.preference.scored import odpo, score_dpo
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.objectives.records import pair, pairs_of, vector

logprob = st.floats(-8, -0.01)
positive = st.floats(0.05, 4)
score = st.floats(0, 1)


def scored(
    chosen_score: float, rejected_score: float, logprobs: tuple[float, float, float, float] = (-4, -7, -5, -6)
) -> Pairs:
    """One pair; by default h = (1, -1)."""
    w, lose, rw, rl = (vector(value) for value in logprobs)
    one = vector(1)
    return pairs_of(w, lose, one, one, rw, rl, vector(chosen_score), vector(rejected_score))


# --- ODPO -------------------------------------------------------------------------------------------------------------


def test_odpo_by_hand() -> None:
    """h = (1, -1), beta 0.5, scores 9 and 5: 1 - 0.5 log 4 = 0.3068528, log(1 + e^-0.3068528) = 0.5514447; with the
    identity 1 - 0.1 x 4 = 0.6, log(1 + e^-0.6) = 0.4374879."""
    losses, metrics = odpo(Odpo(beta=0.5, alpha=0.5), scored(9, 5))
    assert losses.item() == pytest.approx(math.log1p(math.exp(-0.3068528)), abs=1e-7)
    assert (metrics["rewards/chosen"].value, metrics["scores/without_gap"].value) == (0.5, 0)
    losses, _ = odpo(Odpo(beta=0.5, alpha=0.1, offset="identity"), scored(9, 5))
    assert losses.item() == pytest.approx(0.4374879, abs=1e-6)


@given(logprob, logprob, logprob, logprob, positive, st.floats(0.05, 3), st.floats(0.05, 20))
def test_odpo_multiplies_the_rejected_answer_s_strength_by_the_gap(
    w: float, lose: float, rw: float, rl: float, beta: float, alpha: float, gap: float
) -> None:
    """p = a / (a + b gap^alpha), or e^(alpha gap) with the identity."""
    a, b = (math.exp(w) / math.exp(rw)) ** beta, (math.exp(lose) / math.exp(rl)) ** beta
    given_pair = scored(gap, 0, (w, lose, rw, rl))
    losses, _ = odpo(Odpo(beta=beta, alpha=alpha), given_pair)
    assert losses.item() == pytest.approx(-math.log(a / (a + b * gap**alpha)), rel=1e-7)
    losses, _ = odpo(Odpo(beta=beta, alpha=alpha, offset="identity"), given_pair)
    assert losses.item() == pytest.approx(-math.log(a / (a + b * math.exp(alpha * gap))), rel=1e-7)


@pytest.mark.parametrize("chosen_score", [3.0, 2.0, 1.0])
def test_odpo_with_no_offset_is_dpo_for_any_scores(chosen_score: float) -> None:
    expected = dpo(Dpo(beta=0.5), pair(-4, -7, -5, -6))[0]
    assert torch.equal(odpo(Odpo(beta=0.5, alpha=0), scored(chosen_score, 2))[0], expected)
    assert torch.equal(odpo(Odpo(beta=0.5, alpha=0, offset="identity"), scored(chosen_score, 2))[0], expected)
    assert torch.equal(odpo(Odpo(beta=0.5), scored(3, 2))[0], expected), "the log of a gap of 1 is 0"


def test_the_logarithm_of_no_gap_leaves_a_pair_without_loss_and_says_how_many_there_are() -> None:
    chosen = vector(-4, -4, -4, -4).requires_grad_()
    scores = vector(1, 1 + 1e-300, 1, 5), vector(1, 1, 2, 3)
    ones = torch.ones(4, dtype=torch.float64)
    pairs = pairs_of(chosen, 3 * chosen.detach(), ones, ones, -ones, -ones, *scores)
    losses, metrics = odpo(Odpo(), pairs)
    (gradient,) = torch.autograd.grad(losses.sum(), chosen)
    assert losses[:3].tolist() == [0, 0, 0] and gradient[:3].tolist() == [0, 0, 0]
    assert losses[3] > 0 and gradient[3] < 0
    assert metrics["scores/without_gap"].value == 0.75


def test_the_loss_of_a_small_gap_goes_to_that_of_none() -> None:
    losses = [odpo(Odpo(alpha=1), scored(gap, 0))[0].item() for gap in (1e-2, 1e-4, 1e-8, 0)]
    assert losses == sorted(losses, reverse=True) and losses[2] < 1e-7 and losses[3] == 0


def test_the_identity_takes_a_gap_of_either_sign() -> None:
    losses = [odpo(Odpo(offset="identity"), scored(gap, 0))[0].item() for gap in (-1, 0, 1)]
    assert losses[0] < losses[1] < losses[2]
    assert losses[1] == dpo(Dpo(), pair(-4, -7, -5, -6))[0].item()


@pytest.mark.parametrize("offset", ["log", "identity"])
def test_pairs_with_a_bigger_gap_learn_a_bigger_margin(offset: str) -> None:
    margins = vector(0, 0, 0).requires_grad_()
    zeros, ones = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for _ in range(100):
        pairs = pairs_of(margins, zeros, ones, ones, zeros, zeros, vector(0.5, 1, 4), zeros)
        parameters = Odpo.model_validate({"beta": 0.5, "offset": offset})
        (gradient,) = torch.autograd.grad(odpo(parameters, pairs)[0].sum(), margins)
        margins = (margins - gradient).detach().requires_grad_()
    learnt = margins.tolist()
    assert learnt[0] < learnt[1] - 0.1 < learnt[2] - 0.2


# --- Score-DPO --------------------------------------------------------------------------------------------------------


def test_score_dpo_by_hand() -> None:
    """h = (1, -1), beta 0.5, scores 0.8 and 0.4: 0.8 x 0.5 + 0.6 x 0.5 = 0.7, log(1 + e^-0.7) = 0.4031860."""
    losses, metrics = score_dpo(ScoreDpo(beta=0.5), scored(0.8, 0.4))
    assert losses.item() == pytest.approx(0.4031860, abs=1e-6)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == pytest.approx((0.4, -0.3))
    assert metrics["scores/clipped"].value == 0


@given(logprob, logprob, logprob, logprob, positive, score, score)
def test_score_dpo_raises_each_ratio_to_what_its_score_says(
    w: float, lose: float, rw: float, rl: float, beta: float, sw: float, sl: float
) -> None:
    a = (math.exp(w) / math.exp(rw)) ** (beta * sw)
    b = (math.exp(lose) / math.exp(rl)) ** (beta * (1 - sl))
    losses, _ = score_dpo(ScoreDpo(beta=beta), scored(sw, sl, (w, lose, rw, rl)))
    assert losses.item() == pytest.approx(-math.log(a / (a + b)), rel=1e-8)


@given(logprob, logprob, logprob, logprob, positive)
def test_score_dpo_with_scores_of_one_and_zero_is_dpo(w: float, lose: float, rw: float, rl: float, beta: float) -> None:
    expected = dpo(Dpo(beta=beta), pair(w, lose, rw, rl))[0]
    assert torch.equal(score_dpo(ScoreDpo(beta=beta), scored(1, 0, (w, lose, rw, rl)))[0], expected)


def test_each_side_s_gradient_is_weighed_by_its_score() -> None:
    sides = [vector(-4).requires_grad_(), vector(-7).requires_grad_()]
    one = vector(1)
    pairs = pairs_of(*sides, one, one, vector(-5), vector(-6), vector(0.9), vector(0.7))
    chosen, rejected = torch.autograd.grad(score_dpo(ScoreDpo(), pairs)[0], sides)
    assert chosen.item() / -rejected.item() == pytest.approx(0.9 / 0.3)


def test_scores_are_mapped_from_their_range_and_cut_off_outside() -> None:
    parameters = ScoreDpo(beta=0.5, lowest_score=1, highest_score=6)
    assert score_dpo(parameters, scored(5, 3))[0].item() == pytest.approx(0.4031860, abs=1e-6)
    losses, metrics = score_dpo(parameters, scored(7, -2))
    assert losses.item() == dpo(Dpo(beta=0.5), pair(-4, -7, -5, -6))[0].item()
    assert metrics["scores/clipped"].value == 1


def test_a_range_without_extent_is_refused() -> None:
    with pytest.raises(ValidationError, match="lowestScore must be below highestScore"):
        ScoreDpo(lowest_score=1, highest_score=1)


@pytest.mark.parametrize("parameters", [Odpo(), ScoreDpo()])
def test_pairs_without_scores_are_refused(parameters: Any) -> None:
    with pytest.raises(ValueError, match="needs scores"):
        implementation_of(parameters)(parameters, pair(-1, -2, -1, -2))
