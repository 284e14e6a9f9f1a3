"""Objectives on lists: by hand, against their two-completion forms and enumerations, and the optima they lead to."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.listwise import ExoListwise, LipoLambda, PlackettLuce, Rrhf
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.inputs import Completions, Lists
from plumbline_trainer.objectives.preference.listwise import exo_listwise, lipo_lambda, plackett_luce, rrhf
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.objectives.records import pair, vector

EVERY_OBJECTIVE = [Rrhf(), ExoListwise(), PlackettLuce(), LipoLambda(), LipoLambda(gain="linear")]

log_ratio = st.floats(-6, 6)
score = st.floats(-1, 1)


def lists_of(
    logprobs: torch.Tensor,
    scores: torch.Tensor,
    tokens: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
    present: torch.Tensor | None = None,
) -> Lists:
    """Lists `[B, K]`, or one list `[K]`; a reference of zeros and completions of one token unless said otherwise."""
    given_tensors = [
        logprobs,
        torch.ones_like(scores) if tokens is None else tokens,
        torch.zeros_like(scores) if reference is None else reference,
        scores,
        torch.ones_like(scores, dtype=torch.bool) if present is None else present,
    ]
    logprobs, tokens, reference, scores, present = (torch.atleast_2d(tensor) for tensor in given_tensors)
    return Lists(Completions(logprobs, tokens, reference, scores), present)


def loss_of(parameters: Any, lists: Lists) -> torch.Tensor:
    losses: torch.Tensor = implementation_of(parameters)(parameters, lists)[0]
    return losses


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_rrhf_by_hand() -> None:
    """p = (-2, -1, -4), scores (3, 2, 1): only the first two stand wrong, by 1. The best has p = -2, sum -4."""
    lists = lists_of(vector(-4, -3, -4), vector(3, 2, 1), tokens=vector(2, 3, 1))
    losses, metrics = rrhf(Rrhf(sft_weight=0.5), lists)
    assert losses.item() == pytest.approx(2)
    assert rrhf(Rrhf(sft_weight=0.5, length_normalized=False), lists)[0].item() == pytest.approx(3)
    assert metrics["rewards/accuracy"].value == pytest.approx(2 / 3)
    assert (metrics["loss/ranking"].value, metrics["loss/likelihood"].value) == pytest.approx((1, 2))
    assert (metrics["logprobs/best"].value, metrics["logprobs/others"].value) == (-4, -3.5)
    assert metrics["rewards/margin"].value == pytest.approx((-1 + 2 + 3) / 3)


def test_exo_listwise_by_hand() -> None:
    """p_f = (2/3, 1/3), p_r = (1/4, 3/4): 2/3 log(8/3) + 1/3 log(4/9)."""
    lists = lists_of(vector(2 * math.log(2), 0), vector(0, 3 * math.log(3)))
    losses, _ = exo_listwise(ExoListwise(beta_policy=0.5, beta_reward=3), lists)
    assert losses.item() == pytest.approx(2 / 3 * math.log(8 / 3) + 1 / 3 * math.log(4 / 9))


def test_plackett_luce_by_hand() -> None:
    """Worths 4, 2, 1, ranked second, first, third: 2/7 x 4/5 x 1 = 8/35."""
    lists = lists_of(vector(math.log(16), math.log(4), 0), vector(5, 9, 1))
    losses, _ = plackett_luce(PlackettLuce(beta=0.5), lists)
    assert losses.item() == pytest.approx(math.log(35 / 8))


def test_lipo_lambda_by_hand() -> None:
    """Ranked by h: second, first, third. Gains 1, 0.5, 0; discounts 1/log 3, 1/log 2, 1/log 4."""
    lists = lists_of(vector(1, 3, -1), vector(1, 0.5, 0))
    losses, _ = lipo_lambda(LipoLambda(beta=0.5, gain="linear"), lists)
    first, second, third = 1 / math.log(3), 1 / math.log(2), 1 / math.log(4)
    expected = (
        0.5 * abs(first - second) * math.log1p(math.e)
        + 1.0 * abs(first - third) * math.log1p(math.exp(-1))
        + 0.5 * abs(second - third) * math.log1p(math.exp(-2))
    )
    assert losses.item() == pytest.approx(expected)


def test_lipo_lambda_s_exponential_gain() -> None:
    """2^1 - 2^0 = 1 and 2^3 - 2^0 = 7 on the same pair."""
    small, large = (loss_of(LipoLambda(), lists_of(vector(1, 3), vector(top, 0))).item() for top in (1, 3))
    assert large == pytest.approx(7 * small)


# --- two completions --------------------------------------------------------------------------------------------------


@given(log_ratio, log_ratio, st.floats(0.05, 2))
def test_two_completions_are_dpo(w: float, lose: float, beta: float) -> None:
    expected = dpo(Dpo(beta=beta), pair(w - 9, lose - 9, -9, -9))[0].item()
    lists = lists_of(vector(lose, w), vector(0, 1))
    assert loss_of(PlackettLuce(beta=beta), lists).item() == pytest.approx(expected, rel=1e-9)
    swap = 1 / math.log(2) - 1 / math.log(3)
    assert loss_of(LipoLambda(beta=beta), lists).item() == pytest.approx(swap * expected, rel=1e-9)


@given(log_ratio, log_ratio, st.floats(0.05, 2), st.floats(0.01, 0.4))
def test_two_completions_are_pairwise_exo(w: float, lose: float, beta: float, flip: float) -> None:
    """Scores whose softmax is (1 - e, e) give the pairwise loss with smoothed labels."""
    lists = lists_of(vector(w, lose), vector(math.log(1 - flip), math.log(flip)))
    p = 1 / (1 + math.exp(-beta * (w - lose)))
    expected = p * math.log(p / (1 - flip)) + (1 - p) * math.log((1 - p) / flip)
    assert loss_of(ExoListwise(beta_policy=beta), lists).item() == pytest.approx(expected, rel=1e-7, abs=1e-12)


# --- more completions, derived another way ----------------------------------------------------------------------------


@given(st.lists(log_ratio, min_size=2, max_size=4))
def test_plackett_luce_is_a_distribution_over_rankings(log_ratios: list[float]) -> None:
    """The likelihoods of all rankings of a list add up to one."""
    total = 0.0
    for ranking in itertools.permutations(range(len(log_ratios))):
        scores = vector(*(float(-ranking.index(k)) for k in range(len(log_ratios))))
        total += math.exp(-loss_of(PlackettLuce(beta=0.7), lists_of(vector(*log_ratios), scores)).item())
    assert total == pytest.approx(1, rel=1e-9)


@given(st.lists(st.tuples(log_ratio, score), min_size=2, max_size=5, unique_by=lambda c: c[1]), st.floats(0.1, 3))
def test_plackett_luce_draws_without_replacement(completions: list[tuple[float, float]], beta: float) -> None:
    worths = [math.exp(beta * h) for h, _ in sorted(completions, key=lambda c: -c[1])]
    likelihood = math.prod(worth / sum(worths[k:]) for k, worth in enumerate(worths))
    lists = lists_of(*(vector(*column) for column in zip(*completions, strict=True)))
    assert loss_of(PlackettLuce(beta=beta), lists).item() == pytest.approx(-math.log(likelihood), rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(log_ratio, score), min_size=2, max_size=5, unique_by=(lambda c: c[0], lambda c: c[1])))
def test_lipo_s_weights_are_the_change_of_discounted_gain_when_two_places_are_swapped(
    completions: list[tuple[float, float]],
) -> None:
    def gain(ranking: list[tuple[float, float]]) -> float:
        return sum((2.0**s - 1) / math.log(1 + place) for place, (_, s) in enumerate(ranking, start=1))

    ranked = sorted(completions, key=lambda c: -c[0])
    expected = 0.0
    for i, j in itertools.permutations(range(len(ranked)), 2):
        if ranked[i][1] > ranked[j][1]:
            swapped = list(ranked)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            margin = 0.3 * (ranked[i][0] - ranked[j][0])
            expected += abs(gain(ranked) - gain(swapped)) * math.log1p(math.exp(-margin))
    lists = lists_of(*(vector(*column) for column in zip(*completions, strict=True)))
    assert loss_of(LipoLambda(beta=0.3), lists).item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


# --- what holds for all of them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", EVERY_OBJECTIVE, ids=repr)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2)), min_size=2, max_size=6), st.integers(0, 99))
def test_the_order_of_a_list_does_not_matter(parameters: Any, completions: list[tuple[int, int]], seed: int) -> None:
    """Ties of both kinds included: whole numbers repeat."""
    shuffled = random.Random(seed).sample(completions, len(completions))
    one, other = (
        loss_of(parameters, lists_of(*(vector(*map(float, column)) for column in zip(*order, strict=True)))).item()
        for order in (completions, shuffled)
    )
    assert one == pytest.approx(other, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("parameters", EVERY_OBJECTIVE, ids=repr)
def test_absent_completions_mean_nothing(parameters: Any) -> None:
    """Neither value nor gradient nor metrics see what padding holds, and rows do not see each other."""
    short = lists_of(vector(-2, -3, -1), vector(0.2, 0.9, 0.1), vector(2, 3, 2), vector(-2.5, -3.5, -0.5))
    logprobs = torch.tensor([[-2, 50, -3, -1], [-4, -1, -5, -2]], dtype=torch.float64, requires_grad=True)
    padded = lists_of(
        logprobs,
        torch.tensor([[0.2, 7, 0.9, 0.1], [0.4, 0.3, 0.2, 0.1]], dtype=torch.float64),
        torch.tensor([[2, 1, 3, 2], [1, 1, 1, 1]], dtype=torch.float64),
        torch.tensor([[-2.5, 0, -3.5, -0.5], [-4, -3, -2, -1]], dtype=torch.float64),
        torch.tensor([[True, False, True, True], [True, True, True, True]]),
    )
    losses, metrics = implementation_of(parameters)(parameters, padded)
    assert losses[0].item() == pytest.approx(loss_of(parameters, short).item())
    assert metrics["rewards/accuracy"].count == 3 + 6, "pairs of the first and of the second row"
    assert metrics["kl"].count == 3 + 4
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
    assert gradient[0, 1] == 0 and gradient.isfinite().all()


@pytest.mark.parametrize("parameters", EVERY_OBJECTIVE, ids=repr)
def test_a_policy_that_equals_its_reference_is_pushed_in_the_order_of_the_scores(parameters: Any) -> None:
    logprobs = vector(-3, -3, -3).requires_grad_()
    lists = lists_of(logprobs, vector(0.5, 1, 0), reference=vector(-3, -3, -3))
    losses, metrics = implementation_of(parameters)(parameters, lists)
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
    assert metrics["rewards/accuracy"].value == 0.5
    assert gradient[1] < gradient[0] <= 0.2 and gradient[1] < 0 <= gradient[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parameters", EVERY_OBJECTIVE, ids=repr)
def test_extreme_margins_stay_finite(parameters: Any, dtype: torch.dtype) -> None:
    for values in ((1e4, -1e4, 0.0), (-1e4, 1e4, 0.0), (0.0, 0.0, 0.0), (-1e4, -1e4, 1e4)):
        logprobs = torch.tensor(values, dtype=dtype, requires_grad=True)
        lists = lists_of(logprobs, torch.tensor([1.0, 0.0, 0.5], dtype=dtype))
        losses = loss_of(parameters, lists)
        (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
        assert losses.isfinite().all() and gradient.isfinite().all(), values


def test_scores_beyond_an_exponential_gain_are_refused() -> None:
    lists = lists_of(vector(0, 1), vector(65, 0))
    with pytest.raises(ValueError, match="up to 64: set gain to linear"):
        lipo_lambda(LipoLambda(), lists)
    assert loss_of(LipoLambda(gain="linear"), lists).isfinite().all()


@pytest.mark.parametrize("parameters", EVERY_OBJECTIVE, ids=repr)
def test_gradients_equal_finite_differences(parameters: Any) -> None:
    logprobs = torch.tensor([[-2.2, -3.1, -1.3, -7.7], [-4.3, -1.1, -5.2, 0]], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([[0.2, 0.9, 0.1, 0.2], [0.4, 0.3, 0.2, 0]], dtype=torch.float64)
    tokens = torch.tensor([[2, 4, 3, 5], [1, 2, 3, 1]], dtype=torch.float64)
    reference = torch.tensor([[-2.0, -3.0, -1.0, -8.0], [-5.0, -2.0, -4.0, 0]], dtype=torch.float64)
    present = torch.tensor([[True] * 4, [True, True, True, False]])
    assert torch.autograd.gradcheck(
        lambda values: loss_of(parameters, lists_of(values, scores, tokens, reference, present)), [logprobs]
    )


# --- where training leads ---------------------------------------------------------------------------------------------


def trained(parameters: Any, scores: torch.Tensor, reference: torch.Tensor, steps: int, rate: float) -> torch.Tensor:
    """A table policy over all K completions of one prompt after gradient descent; log-probabilities `[K]`."""
    logits = reference.clone().requires_grad_()
    for _ in range(steps):
        losses = loss_of(parameters, lists_of(logits.log_softmax(dim=0), scores, reference=reference))
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        logits = (logits.detach() - rate * gradient).requires_grad_()
    return logits.detach().log_softmax(dim=0)


def test_exo_s_optimum_is_the_reference_tilted_by_the_scores() -> None:
    """pi* = pi_ref exp(score / (beta_pi beta_r)) / Z."""
    reference, scores = vector(0.4, 0.3, 0.2, 0.1).log(), vector(0.1, 0.7, 0.4, 0.9)
    policy = trained(ExoListwise(beta_policy=0.5, beta_reward=2), scores, reference, steps=600, rate=4)
    expected = (reference + scores / (0.5 * 2)).softmax(dim=0)
    torch.testing.assert_close(policy.exp(), expected, atol=1e-6, rtol=0)


def test_exo_seeks_a_mode_where_the_forward_divergence_covers() -> None:
    """Five completions in a row, the two ends good, and a policy that cannot be so: a peak that can only be shifted.

    The forward divergence, worked out here, puts the peak between the ends, where nothing is good; the loss puts it on
    the better end."""
    place = torch.arange(5, dtype=torch.float64)
    scores = torch.tensor([4.0, 0.0, 0.0, 0.0, 3.9], dtype=torch.float64).expand(81, 5)
    centers = torch.linspace(0, 4, 81, dtype=torch.float64)
    policies = (-((place - centers[:, None]) ** 2)).log_softmax(dim=1)
    reverse = loss_of(ExoListwise(beta_policy=1, beta_reward=1), lists_of(policies, scores))
    forward = -(scores.softmax(dim=1) * policies).sum(dim=1)
    assert centers[reverse.argmin()] < 0.5
    assert 1.5 < centers[forward.argmin()] < 2.5


def test_rrhf_sorts_by_score_and_then_has_no_ranking_loss() -> None:
    scores, start = vector(0, 1, 2, 3), vector(0.6, 0.25, 0.1, 0.05).log()
    policy = trained(Rrhf(sft_weight=0.1), scores, start, steps=400, rate=0.1)
    assert policy.argsort().tolist() == [0, 1, 2, 3]
    before, after = (rrhf(Rrhf(), lists_of(logprobs, scores))[1]["loss/ranking"].value for logprobs in (start, policy))
    assert before > 5 and after == 0
    ordered = vector(-4, -3, -2, -1).requires_grad_()
    losses = loss_of(Rrhf(sft_weight=0), lists_of(ordered, scores))
    assert losses.item() == 0 and torch.autograd.grad(losses.sum(), ordered)[0].abs().max() == 0


def test_rrhf_s_likelihood_is_shared_by_completions_that_are_equally_good() -> None:
    losses, _ = rrhf(Rrhf(), lists_of(vector(-1, -3, -9), vector(1, 1, 0)))
    assert losses.item() == pytest.approx(2)


def test_plackett_luce_s_optimum_for_repeated_rankings_has_their_shares_as_worths() -> None:
    """First places shared 5 : 3 : 2, second places by the same worths: the fit is pi proportional to (5, 3, 2)."""
    shares = vector(0.5, 0.3, 0.2)
    rankings = list(itertools.permutations(range(3)))
    weights, rows = [], []
    for ranking in rankings:
        first, second, _ = (shares[k].item() for k in ranking)
        weights.append(first * second / (1 - first))
        rows.append([float(-ranking.index(k)) for k in range(3)])
    scores, reference = torch.tensor(rows, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(300):
        policy = logits.log_softmax(dim=0).expand(6, 3)
        losses = loss_of(PlackettLuce(beta=1), lists_of(policy, scores, reference=reference))
        (gradient,) = torch.autograd.grad((losses * vector(*weights)).sum(), logits)
        logits = (logits.detach() - gradient).requires_grad_()
    torch.testing.assert_close(logits.detach().softmax(dim=0), shares, atol=1e-6, rtol=0)


def test_equal_scores_leave_completions_where_they_are_alike() -> None:
    """Tied at the top: the likelihood is largest where the two have the same implicit reward."""
    reference = vector(0.6, 0.2, 0.2).log()
    policy = trained(PlackettLuce(beta=1), vector(1, 1, 0), reference, steps=200, rate=1)
    ratios = policy - reference
    assert ratios[0].item() == pytest.approx(ratios[1].item(), abs=1e-6) and ratios[0] > ratios[2] + 3
