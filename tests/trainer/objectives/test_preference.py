"""Each objective against numbers worked out by hand, its probability form, its known optimum and its gradient."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Dpo, Ipo
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.methods.preference.reference_free import Simpo
from plumbline_api.methods.preference.reward_model import RewardModel
from plumbline_api.methods.preference.supervised import Sft
from plumbline_trainer.objectives import policy, preference  # noqa: F401  (registers the objectives)
from plumbline_trainer.objectives.preference.direct import dpo, ipo
from plumbline_trainer.objectives.preference.inputs import Demonstrations
from plumbline_trainer.objectives.preference.reference_free import simpo
from plumbline_trainer.objectives.preference.reward_model import reward_model
from plumbline_trainer.objectives.preference.supervised import sft
from plumbline_trainer.objectives.registry import (
    POLICY_OBJECTIVES,
    PREFERENCE_OBJECTIVES,
    implementation_of,
    implements,
)
from tests.trainer.objectives.records import (
    completions_by_token,
    pair,
    pairs_of,
    scores_of,
    vector,
)

logprob = st.floats(-8, -0.01)
positive = st.floats(0.05, 4)
tokens = st.integers(1, 30)


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_dpo_by_hand() -> None:
    """h = (1, -1), beta (1 - -1) = 1: log(1 + e^-1) = 0.3132617; with e = 0.2: 0.8 x 0.3132617 + 0.2 x 1.3132617."""
    given_pair = pair(-4, -7, -5, -6)
    losses, metrics = dpo(Dpo(beta=0.5), given_pair)
    assert losses.tolist() == pytest.approx([0.31326168751822286], abs=1e-12)
    losses, _ = dpo(Dpo(beta=0.5, label_smoothing=0.2), given_pair)
    assert losses.tolist() == pytest.approx([0.51326168751822286], abs=1e-12)
    assert {name: metric.value for name, metric in metrics.items()} == pytest.approx(
        {
            "rewards/chosen": 0.5,
            "rewards/rejected": -0.5,
            "rewards/margin": 1.0,
            "rewards/accuracy": 1.0,
            "logprobs/chosen": -4.0,
            "logprobs/rejected": -7.0,
        }
    )


def test_ipo_by_hand() -> None:
    """h = (2, -4); over 2 and 4 tokens (1, -1): (2 - 1/(2 x 0.5))^2 = 1; summed: (6 - 1)^2 = 25."""
    given_pair = pair(-4, -14, -6, -10, lengths=(2, 4))
    assert ipo(Ipo(tau=0.5), given_pair)[0].tolist() == pytest.approx([1.0])
    assert ipo(Ipo(tau=0.5, length_normalized=False), given_pair)[0].tolist() == pytest.approx([25.0])


def test_simpo_by_hand() -> None:
    """2 x -4/2 - 2 x -12/3 - 1 = 3: log(1 + e^-3) = 0.0485874. The reference does not enter."""
    given_pair = pairs_of(vector(-4), vector(-12), vector(2), vector(3))
    losses, metrics = simpo(Simpo(beta=2, gamma=1), given_pair)
    assert losses.tolist() == pytest.approx([0.04858735157374196], abs=1e-12)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == (-4, -8)


def test_reward_model_by_hand() -> None:
    """r = (2, 1): log(1 + e^-1) = 0.3132617, plus 0.1 x 3^2 = 0.9."""
    losses, _ = reward_model(RewardModel(centering_coefficient=0.1), scores_of(vector(2), vector(1)))
    assert losses.tolist() == pytest.approx([1.21326168751822286], abs=1e-12)


def test_sft_by_hand() -> None:
    tokens = completions_by_token(vector(-1, -2, -9).view(1, 3), torch.tensor([[True, True, False]]))
    losses, metrics = sft(Sft(), Demonstrations(tokens))
    assert losses[0, :2].tolist() == [1, 2]
    assert metrics["logprobs/token"].value == -1.5


# --- probability forms: the same objective derived another way --------------------------------------------------------


@given(logprob, logprob, logprob, logprob, st.floats(0.05, 2), st.floats(0, 0.49))
def test_dpo_is_the_bradley_terry_likelihood_of_the_implicit_rewards(
    w: float, lose: float, rw: float, rl: float, beta: float, flip: float
) -> None:
    """Eq. 6 of the paper: p(y_w > y_l) = a / (a + b) with a = (pi/ref)^beta of the chosen, b of the rejected."""
    a, b = (math.exp(w) / math.exp(rw)) ** beta, (math.exp(lose) / math.exp(rl)) ** beta
    expected = -(1 - flip) * math.log(a / (a + b)) - flip * math.log(b / (a + b))
    losses, _ = dpo(Dpo(beta=beta, label_smoothing=flip), pair(w, lose, rw, rl))
    assert losses.item() == pytest.approx(expected, rel=1e-9)


@given(logprob, logprob, tokens, tokens, positive, st.floats(0, 3))
def test_simpo_is_the_likelihood_of_geometric_mean_probabilities_with_a_handicap(
    w: float, lose: float, nw: int, nl: int, beta: float, gamma: float
) -> None:
    a, b = math.exp(w) ** (beta / nw), math.exp(lose) ** (beta / nl) * math.exp(gamma)
    losses, _ = simpo(Simpo(beta=beta, gamma=gamma), pairs_of(vector(w), vector(lose), vector(nw), vector(nl)))
    assert losses.item() == pytest.approx(-math.log(a / (a + b)), rel=1e-9)


@given(logprob, logprob, logprob, logprob, tokens, tokens, positive, st.booleans())
def test_ipo_is_the_squared_distance_of_the_log_of_a_ratio_of_ratios(
    w: float, lose: float, rw: float, rl: float, nw: int, nl: int, tau: float, normalized: bool
) -> None:
    """Eq. 17: h = log( pi(w) ref(l) / (pi(l) ref(w)) ), with each probability's geometric mean when normalised."""
    nw, nl = (nw, nl) if normalized else (1, 1)
    ratio = math.exp(w / nw) * math.exp(rl / nl) / (math.exp(lose / nl) * math.exp(rw / nw))
    losses, _ = ipo(Ipo(tau=tau, length_normalized=normalized), pair(w, lose, rw, rl, (nw, nl)))
    assert losses.item() == pytest.approx((math.log(ratio) - 1 / (2 * tau)) ** 2, rel=1e-7, abs=1e-9)


# --- optima, limits and symmetries ------------------------------------------------------------------------------------


def test_ipo_is_smallest_where_the_margin_is_one_over_two_tau() -> None:
    for tau in (0.05, 0.1, 2.0):
        target = 1 / (2 * tau)
        for distance in (-0.5, 0.0, 0.5):
            losses, _ = ipo(Ipo(tau=tau, length_normalized=False), pair(target + distance - 9, -9, -9, -9))
            assert losses.item() == pytest.approx(distance**2)


@pytest.mark.parametrize("flip", [0.1, 0.3, 0.49])
def test_label_smoothing_moves_dpo_s_optimum_from_infinity_to_the_log_odds_of_a_right_label(flip: float) -> None:
    best = math.log((1 - flip) / flip)
    chosen = vector(best - 5).requires_grad_()
    given_pair = pairs_of(chosen, vector(-5), vector(1), vector(1), vector(-5), vector(-5))
    losses, _ = dpo(Dpo(beta=1, label_smoothing=flip), given_pair)
    losses.sum().backward()
    assert chosen.grad is not None and chosen.grad.item() == pytest.approx(0, abs=1e-12)


def test_as_label_smoothing_goes_to_one_half_neither_answer_is_preferred() -> None:
    forwards, _ = dpo(Dpo(beta=1, label_smoothing=0.5 - 1e-9), pair(-1, -4, -2, -2))
    backwards, _ = dpo(Dpo(beta=1, label_smoothing=0.5 - 1e-9), pair(-4, -1, -2, -2))
    assert forwards.item() == pytest.approx(backwards.item(), abs=1e-7)


@given(logprob, logprob, logprob, logprob, st.floats(-5, 5))
def test_reference_objectives_see_only_log_ratios(w: float, lose: float, rw: float, rl: float, shift: float) -> None:
    moved = pair(w + shift, lose + shift, rw + shift, rl + shift)
    for parameters in (Dpo(), Ipo(length_normalized=False)):
        function = implementation_of(parameters)
        losses, _ = function(parameters, pair(w, lose, rw, rl))
        assert function(parameters, moved)[0].item() == pytest.approx(losses.item(), rel=1e-6)


def test_at_the_start_every_reference_objective_has_its_known_value_and_no_preference() -> None:
    start = pair(-3, -5, -3, -5)
    expected: list[tuple[Any, float]] = [(Dpo(beta=7), math.log(2)), (Ipo(tau=0.1), 25.0)]
    for parameters, value in expected:
        losses, metrics = implementation_of(parameters)(parameters, start)
        assert losses.item() == pytest.approx(value)
        assert metrics["rewards/accuracy"].value == 0.5, "a tie counts as half"


# --- gradients --------------------------------------------------------------------------------------------------------


def of_pairs(parameters: Any) -> Callable[..., torch.Tensor]:
    def losses(*values: torch.Tensor) -> torch.Tensor:
        chosen, rejected, reference_chosen, reference_rejected = values
        pairs = pairs_of(chosen, rejected, vector(3, 5), vector(2, 7), reference_chosen, reference_rejected)
        result: torch.Tensor = implementation_of(parameters)(parameters, pairs)[0]
        return result

    return losses


@pytest.mark.parametrize("parameters", [Dpo(), Dpo(label_smoothing=0.2), Ipo(), Ipo(length_normalized=False)])
def test_gradients_of_reference_objectives_equal_finite_differences(parameters: Any) -> None:
    values = [vector(-3, -9), vector(-4, -8), vector(-3.5, -7), vector(-2, -11)]
    torch.autograd.gradcheck(of_pairs(parameters), [value.requires_grad_() for value in values])


def test_gradients_of_the_other_objectives_equal_finite_differences() -> None:
    chosen, rejected = vector(-3, -9).requires_grad_(), vector(-4, -8).requires_grad_()
    counts = vector(3, 5), vector(2, 7)
    torch.autograd.gradcheck(lambda w, r: simpo(Simpo(), pairs_of(w, r, *counts))[0], [chosen, rejected])
    torch.autograd.gradcheck(
        lambda w, r: reward_model(RewardModel(centering_coefficient=0.1), scores_of(w, r))[0], [chosen, rejected]
    )


def test_dpo_s_gradient_weighs_a_pair_by_how_wrong_its_implicit_reward_is() -> None:
    """Sec. 4 of the paper: d loss / d log pi(y_w) = -beta s(r_l - r_w), and the opposite for y_l."""
    chosen, rejected = vector(-4).requires_grad_(), vector(-7).requires_grad_()
    losses, _ = dpo(Dpo(beta=0.5), pairs_of(chosen, rejected, vector(1), vector(1), vector(-5), vector(-6)))
    losses.sum().backward()
    weight = 0.5 / (1 + math.exp(1.0))
    assert chosen.grad is not None and rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-weight, weight))


def test_extreme_margins_stay_finite() -> None:
    for margin in (-1e4, 1e4):
        chosen = vector(margin).requires_grad_()
        pairs = pairs_of(chosen, vector(0), vector(1), vector(1), vector(0), vector(0))
        for parameters in (Dpo(), Simpo()):
            losses = implementation_of(parameters)(parameters, pairs)[0]
            (gradient,) = torch.autograd.grad(losses.sum(), chosen)
            assert losses.isfinite().all() and gradient.isfinite().all()


# --- the registry -----------------------------------------------------------------------------------------------------


def test_every_objective_of_the_api_is_implemented() -> None:
    assert PREFERENCE_OBJECTIVES.missing() == []
    assert POLICY_OBJECTIVES.missing() == []


def test_only_methods_of_the_api_can_be_implemented_and_only_once() -> None:
    class NoMember(PreferenceObjective):
        """Has no key."""

    with pytest.raises(TypeError, match="has an implementation already"):
        implements(Dpo)
    with pytest.raises(KeyError):
        implementation_of(NoMember())


def test_an_implementation_names_the_papers_of_its_method() -> None:
    for method in PreferenceObjective.members():
        source = PREFERENCE_OBJECTIVES.of(method())
        for paper in re.findall(r"arXiv:\d{4}\.\d{5}", method.__doc__ or ""):
            assert paper in re.sub(r"\s+", " ", source.__doc__ or ""), f"{source.__name__} does not name {paper}"
