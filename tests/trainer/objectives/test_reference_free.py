"""Objectives without a reference: by hand, from probabilities, against TRL, at their limits, and where they lead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.reference_free import AlphaPo, Cpo, Orpo, Redi, Simpo, Slic
from plumbline_api.methods.preference.supervised import Sft
from plumbline_trainer.objectives.preference.complement import log_complement
from plumbline_trainer.objectives.preference.inputs import Demonstrations, Pairs
from plumbline_trainer.objectives.preference.reference_free import (
    alphapo,
    cpo,
    log_odds,
    orpo,
    redi,
    shaped_reward,
    simpo,
    slic,
)
from plumbline_trainer.objectives.preference.supervised import sft
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.objectives.records import completions_by_token, pairs_of, vector
from tests.trainer.objectives.trl_oracle import PairBatch, assert_same_loss, mean_loss, trl_cpo, trl_orpo

logprob = st.floats(-8, -0.01)
positive = st.floats(0.05, 4)
tokens = st.integers(1, 30)

EVERY_OBJECTIVE = [
    Simpo(),
    AlphaPo(),
    AlphaPo(alpha=-0.5),
    AlphaPo(alpha=0),
    Orpo(),
    Cpo(),
    Cpo(length_normalized=False),
    Slic(),
    Redi(),
]


def unreferenced(chosen: float, rejected: float, lengths: tuple[int, int] = (1, 1)) -> Pairs:
    return pairs_of(vector(chosen), vector(rejected), vector(lengths[0]), vector(lengths[1]))


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_simpo_by_hand() -> None:
    """2 x -4/2 - 2 x -12/3 - 1 = 3: log(1 + e^-3) = 0.0485874. The reference does not enter."""
    losses, metrics = simpo(Simpo(beta=2, gamma=1), unreferenced(-4, -12, (2, 3)))
    assert losses.tolist() == pytest.approx([0.04858735157374196], abs=1e-12)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == (-4, -8)


def test_alphapo_by_hand() -> None:
    """p = 1/2 and 1/4, alpha = 1: 1 - 1/p = -1 and -3; 0.5 (-1 + 3) - 0.25 = 0.75: log(1 + e^-0.75) = 0.3868709."""
    pairs = unreferenced(2 * math.log(0.5), 3 * math.log(0.25), (2, 3))
    losses, metrics = alphapo(AlphaPo(beta=0.5, gamma=0.25, alpha=1), pairs)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-0.75))], abs=1e-12)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == pytest.approx((-0.5, -1.5))


def test_orpo_by_hand() -> None:
    """p = 1/2 and 1/5, odds 1 and 1/4: log 2 + 0.3 log(1 + 1/4) = 0.6931472 + 0.3 x 0.2231436."""
    losses, metrics = orpo(Orpo(odds_ratio_weight=0.3), unreferenced(2 * math.log(0.5), math.log(0.2), (2, 1)))
    assert losses.tolist() == pytest.approx([math.log(2) + 0.3 * math.log(1.25)], abs=1e-12)
    assert metrics["rewards/chosen"].value == pytest.approx(0)
    assert metrics["rewards/rejected"].value == pytest.approx(math.log(0.25))


def test_cpo_by_hand() -> None:
    """0.5 (-4 + 6) = 1: log(1 + e^-1) = 0.3132617; plus 0.25 x 4/2, or 0.25 x 4 when summed."""
    pairs = unreferenced(-4, -6, (2, 3))
    assert cpo(Cpo(beta=0.5, likelihood_weight=0.25), pairs)[0].item() == pytest.approx(0.8132616875182228)
    summed = Cpo(beta=0.5, likelihood_weight=0.25, length_normalized=False)
    assert cpo(summed, pairs)[0].item() == pytest.approx(1.3132616875182228)


def test_slic_by_hand() -> None:
    """max(0, 3 + 4 - 6) + 0.1 x 4 = 1.4; with a margin of 1 the hinge is closed and 0.4 is left."""
    assert slic(Slic(delta=3), unreferenced(-4, -6))[0].item() == pytest.approx(1.4)
    assert slic(Slic(delta=1), unreferenced(-4, -6))[0].item() == pytest.approx(0.4)


def test_redi_by_hand() -> None:
    """4/2 - 0.8 x 9/3 = -0.4."""
    losses, metrics = redi(Redi(), unreferenced(-4, -9, (2, 3)))
    assert losses.item() == pytest.approx(-0.4)
    assert (metrics["loss/positive"].value, metrics["loss/negative"].value) == (2, -3)


# --- probability forms: the same objective derived another way --------------------------------------------------------


@given(logprob, logprob, tokens, tokens, positive, st.floats(0, 3))
def test_simpo_is_the_likelihood_of_geometric_mean_probabilities_with_a_handicap(
    w: float, lose: float, nw: int, nl: int, beta: float, gamma: float
) -> None:
    a, b = math.exp(w) ** (beta / nw), math.exp(lose) ** (beta / nl) * math.exp(gamma)
    losses, _ = simpo(Simpo(beta=beta, gamma=gamma), unreferenced(w, lose, (nw, nl)))
    assert losses.item() == pytest.approx(-math.log(a / (a + b)), rel=1e-9)


@given(logprob, logprob, tokens, tokens, positive, st.floats(0, 3), st.floats(-2, 2).filter(lambda a: abs(a) > 0.01))
def test_alphapo_compares_powers_of_geometric_mean_probabilities(
    w: float, lose: float, nw: int, nl: int, beta: float, gamma: float, alpha: float
) -> None:
    p, q = math.exp(w) ** (1 / nw), math.exp(lose) ** (1 / nl)
    margin = beta / alpha * (q**-alpha - p**-alpha) - gamma
    losses, _ = alphapo(AlphaPo(beta=beta, gamma=gamma, alpha=alpha), unreferenced(w, lose, (nw, nl)))
    assert losses.item() == pytest.approx(math.log1p(math.exp(-abs(margin))) + max(0.0, -margin), rel=1e-8)


@given(logprob, logprob, tokens, tokens, positive)
def test_orpo_is_the_likelihood_of_a_choice_between_odds(
    w: float, lose: float, nw: int, nl: int, weight: float
) -> None:
    """sigma(log(a/b)) = a / (a + b) for odds a, b."""
    p, q = math.exp(w / nw), math.exp(lose / nl)
    a, b = p / (1 - p), q / (1 - q)
    losses, _ = orpo(Orpo(odds_ratio_weight=weight), unreferenced(w, lose, (nw, nl)))
    assert losses.item() == pytest.approx(-math.log(p) - weight * math.log(a / (a + b)), rel=1e-8)


@given(logprob, logprob, positive, st.floats(0, 3))
def test_cpo_is_a_choice_between_powers_of_probabilities_plus_likelihood(
    w: float, lose: float, beta: float, weight: float
) -> None:
    a, b = math.exp(w) ** beta, math.exp(lose) ** beta
    losses, _ = cpo(Cpo(beta=beta, likelihood_weight=weight, length_normalized=False), unreferenced(w, lose))
    assert losses.item() == pytest.approx(-math.log(a / (a + b)) - weight * w, rel=1e-9)


# --- TRL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_simpo_is_trl_s_with_gamma_in_units_of_the_reward(seed: int) -> None:
    """TRL computes beta (margin - gamma/beta) with its `simpo_gamma` as gamma: the same number."""
    batch = PairBatch.random(seed)
    ours = mean_loss(Simpo(beta=2, gamma=0.7), batch.pairs())
    assert_same_loss(batch.policy, ours, trl_cpo(batch, "simpo", beta=2.0, simpo_gamma=0.7))


@pytest.mark.parametrize("alpha", [-1.0, -0.1, 0.25, 2.0])
def test_alphapo_is_trl_s(alpha: float) -> None:
    batch = PairBatch.random(seed=3)
    ours = mean_loss(AlphaPo(beta=1.5, gamma=0.7, alpha=alpha), batch.pairs())
    assert_same_loss(batch.policy, ours, trl_cpo(batch, "simpo", beta=1.5, simpo_gamma=0.7, alpha=alpha))


@pytest.mark.parametrize("seed", range(3))
def test_cpo_is_trl_s(seed: int) -> None:
    """TRL averages the likelihood over all tokens of its batch, however rows are cut; one row has no such question."""
    many, one = PairBatch.random(seed), PairBatch.random(seed, rows=1)
    ours = mean_loss(Cpo(beta=0.3, likelihood_weight=0), many.pairs())
    assert_same_loss(many.policy, ours, trl_cpo(many, "sigmoid", beta=0.3))
    ours = mean_loss(Cpo(beta=0.3, likelihood_weight=0.7), one.pairs())
    assert_same_loss(one.policy, ours, trl_cpo(one, "sigmoid", beta=0.3, cpo_alpha=0.7))


@pytest.mark.parametrize("seed", range(3))
def test_slic_is_trl_s_reference_free_hinge(seed: int) -> None:
    """max(0, 1 - b m) = b max(0, 1/b - m)."""
    batch = PairBatch.random(seed)
    ours = 0.5 * mean_loss(Slic(delta=2, likelihood_weight=0), batch.pairs())
    assert_same_loss(batch.policy, ours, trl_cpo(batch, "hinge", beta=0.5))


@pytest.mark.parametrize("seed", range(3))
def test_orpo_s_odds_ratio_term_is_trl_s(seed: int) -> None:
    """The difference of two weights leaves the odds ratio term alone."""
    batch = PairBatch.random(seed)
    ours = mean_loss(Orpo(odds_ratio_weight=1.5), batch.pairs()) - mean_loss(Orpo(odds_ratio_weight=1), batch.pairs())
    assert_same_loss(batch.policy, ours, trl_orpo(batch, beta=0.5))


# --- limits -----------------------------------------------------------------------------------------------------------


@given(logprob, logprob, tokens, tokens)
def test_as_alpha_goes_to_zero_alphapo_is_simpo(w: float, lose: float, nw: int, nl: int) -> None:
    pairs = unreferenced(w, lose, (nw, nl))
    expected = simpo(Simpo(), pairs)[0].item()
    for alpha in (1e-9, -1e-9, 1e-12):
        assert alphapo(AlphaPo(alpha=alpha), pairs)[0].item() == pytest.approx(expected, rel=1e-6)
    assert alphapo(AlphaPo(alpha=0), pairs)[0].item() == expected


@given(logprob, logprob, tokens, tokens)
def test_redi_without_negatives_is_length_normalised_likelihood(w: float, lose: float, nw: int, nl: int) -> None:
    assert redi(Redi(alpha=0), unreferenced(w, lose, (nw, nl)))[0].item() == pytest.approx(-w / nw)


def test_redi_without_negatives_is_supervised_fine_tuning_on_the_chosen_completion() -> None:
    completion = completions_by_token(vector(-1, -2, -9).view(1, 3), torch.tensor([[True, True, False]]))
    token_losses = sft(Sft(), Demonstrations(completion))[0][0, :2]
    assert redi(Redi(alpha=0), Pairs(completion, completion))[0].item() == pytest.approx(token_losses.mean().item())


def test_orpo_and_cpo_without_their_preference_or_likelihood_terms() -> None:
    pairs = unreferenced(-4, -6, (2, 3))
    assert orpo(Orpo(odds_ratio_weight=0), pairs)[0].item() == pytest.approx(2)
    assert cpo(Cpo(beta=1, likelihood_weight=0), pairs)[0].item() == pytest.approx(math.log1p(math.exp(-2)))


@pytest.mark.parametrize("parameters", EVERY_OBJECTIVE, ids=lambda p: type(p).__name__)
def test_equal_completions_are_a_tie_for_which_the_gradient_breaks_in_favour_of_the_chosen(parameters: Any) -> None:
    chosen, rejected = vector(-4).requires_grad_(), vector(-4).requires_grad_()
    losses, metrics = implementation_of(parameters)(parameters, pairs_of(chosen, rejected, vector(2), vector(2)))
    losses.sum().backward()
    assert metrics["rewards/accuracy"].value == 0.5
    assert chosen.grad is not None and chosen.grad.item() < 0
    assert rejected.grad is not None and rejected.grad.item() > 0


# --- where training leads ---------------------------------------------------------------------------------------------


class OneTokenModel:
    """A language model of one token after one prompt: logits are fixed output embeddings times a trained state.

    The chosen token's embedding (4, 0) and the rejected one's (4, -1) share a direction, as similar texts do. A third
    token at (0, 1) has nothing to do with either, but lies where their difference points.
    """

    embeddings = torch.tensor([[4.0, 0.0], [4.0, -1.0], [0.0, 1.0]], dtype=torch.float64)

    def __init__(self) -> None:
        self.state = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def logprobs(self) -> torch.Tensor:
        return (self.embeddings @ self.state).log_softmax(dim=0)

    def train(self, parameters: Any, steps: int, rate: float = 0.1) -> list[float]:
        """Gradient descent; the chosen token's log-probability after each step."""
        history = []
        for _ in range(steps):
            chosen, rejected, _ = self.logprobs().unbind()
            losses, _ = implementation_of(parameters)(parameters, pairs_of(chosen[None], rejected[None]))
            (gradient,) = torch.autograd.grad(losses.sum(), self.state)
            self.state = (self.state.detach() - rate * gradient).requires_grad_()
            history.append(self.logprobs()[0].item())
        return history


def test_redi_keeps_the_chosen_where_the_symmetric_loss_gives_it_up() -> None:
    """With equal weights only the difference of both counts, which is the direction (0, 1): the third token gains
    fastest along it and takes the probability of the chosen as well. The fifth of plain likelihood that 0.8 leaves
    stops that. Once the rejected token is gone and the chosen has probability p, it gains on the third token by
    (4, -1) . (0.2 (1 - p) (4, -1) + 0.8 (0, 1)) = 3.4 (1 - p) - 0.8, which is 0 at p = 13/17."""
    model = OneTokenModel()
    symmetric = model.train(Redi(alpha=1), steps=1000)
    assert symmetric[-1] < -50 and model.logprobs()[1].item() < symmetric[-1] - 50

    model = OneTokenModel()
    asymmetric = model.train(Redi(alpha=0.8), steps=1000)
    assert min(asymmetric) > -math.log(3), "never below where it started"
    assert asymmetric[-1] == pytest.approx(math.log(13 / 17), abs=1e-3)
    assert model.logprobs()[1].item() < -50, "the rejected token is unlearned all the same"


def test_slic_leaves_a_pair_alone_that_is_told_apart() -> None:
    for parameters in (Slic(delta=1, likelihood_weight=0), Slic(delta=2, likelihood_weight=0)):
        chosen, rejected = vector(-1).requires_grad_(), vector(-3.5).requires_grad_()
        losses, _ = slic(parameters, pairs_of(chosen, rejected))
        gradients = torch.autograd.grad(losses.sum(), (chosen, rejected))
        assert [gradient.item() for gradient in gradients] == [0, 0]


# --- numbers at the edge ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [-1e-12, -1e-5, -0.3, -math.log(2), -0.7, -5.0, -40.0, -300.0])
def test_log_complement_keeps_its_digits(x: float) -> None:
    """Against the series -e^x - e^2x/2 - ... below, and log(-x (1 + x/2 + x^2/6)) close to zero."""
    if x < -30:
        expected = -math.exp(x)
    elif x > -1e-4:
        expected = math.log(-x) + math.log1p(x / 2 + x * x / 6)
    else:
        expected = math.log(1 - math.exp(x))
    assert log_complement(vector(x)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_probability_of_one_has_finite_odds_that_still_push(dtype: torch.dtype) -> None:
    certain = torch.zeros(2, dtype=dtype, requires_grad=True)
    odds = log_odds(certain)
    (gradient,) = torch.autograd.grad(odds.sum(), certain)
    assert odds.isfinite().all() and (odds > 4).all()
    assert gradient.isfinite().all() and (gradient > 100).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parameters", [*EVERY_OBJECTIVE, AlphaPo(alpha=10, beta=100)], ids=repr)
def test_extreme_margins_stay_finite(parameters: Any, dtype: torch.dtype) -> None:
    for values in ((-1e4, 0.0), (0.0, -1e4), (-1e4, -1e4), (0.0, 0.0), (-1e-9, -1e-9)):
        chosen, rejected = (torch.tensor([value], dtype=dtype, requires_grad=True) for value in values)
        losses, _ = implementation_of(parameters)(parameters, pairs_of(chosen, rejected))
        gradients = torch.autograd.grad(losses.sum(), (chosen, rejected))
        assert losses.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients), values


def test_alphapo_s_straight_continuation_joins_without_a_step() -> None:
    """Value and slope on both sides of the exponent of 40: for alpha = 1, a mean log-probability of -40."""
    near = vector(-40 + 1e-7, -40 - 1e-7).requires_grad_()
    rewards = shaped_reward(near, alpha=1)
    (slopes,) = torch.autograd.grad(rewards.sum(), near)
    assert rewards[0].item() == pytest.approx(rewards[1].item(), rel=1e-6)
    assert slopes[0].item() == pytest.approx(slopes[1].item(), rel=1e-6)


# --- gradients --------------------------------------------------------------------------------------------------------


def of_pairs(parameters: Any) -> Callable[..., torch.Tensor]:
    def losses(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        pairs = pairs_of(chosen, rejected, vector(3, 5, 2), vector(2, 7, 4))
        result: torch.Tensor = implementation_of(parameters)(parameters, pairs)[0]
        return result

    return losses


@pytest.mark.parametrize("parameters", EVERY_OBJECTIVE, ids=lambda p: type(p).__name__)
def test_gradients_equal_finite_differences(parameters: Any) -> None:
    chosen, rejected = vector(-3, -9, -0.5).requires_grad_(), vector(-4.5, -8, -6).requires_grad_()
    torch.autograd.gradcheck(of_pairs(parameters), [chosen, rejected])


@pytest.mark.parametrize("parameters", EVERY_OBJECTIVE, ids=lambda p: type(p).__name__)
def test_rows_do_not_see_each_other(parameters: Any) -> None:
    chosen, rejected = vector(-3, -9, -0.5), vector(-4, -8, -6)
    together = of_pairs(parameters)(chosen, rejected)
    one = pairs_of(chosen[1:2], rejected[1:2], vector(5), vector(7))
    assert together[1].item() == pytest.approx(implementation_of(parameters)(parameters, one)[0].item())
