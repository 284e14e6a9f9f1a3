"""Each objective against numbers worked out by hand, its probability form, its known optimum and its gradient."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.methods.preference.reference_free import Simpo
from plumbline_api.methods.preference.reward_model import RewardModel
from plumbline_api.methods.preference.supervised import Sft
from plumbline_trainer.objectives import policy, preference  # noqa: F401  (registers the objectives)
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
    pairs_of,
    scores_of,
    vector,
)

logprob = st.floats(-8, -0.01)
positive = st.floats(0.05, 4)
tokens = st.integers(1, 30)


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


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


@given(logprob, logprob, tokens, tokens, positive, st.floats(0, 3))
def test_simpo_is_the_likelihood_of_geometric_mean_probabilities_with_a_handicap(
    w: float, lose: float, nw: int, nl: int, beta: float, gamma: float
) -> None:
    a, b = math.exp(w) ** (beta / nw), math.exp(lose) ** (beta / nl) * math.exp(gamma)
    losses, _ = simpo(Simpo(beta=beta, gamma=gamma), pairs_of(vector(w), vector(lose), vector(nw), vector(nl)))
    assert losses.item() == pytest.approx(-math.log(a / (a + b)), rel=1e-9)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_of_the_other_objectives_equal_finite_differences() -> None:
    chosen, rejected = vector(-3, -9).requires_grad_(), vector(-4, -8).requires_grad_()
    counts = vector(3, 5), vector(2, 7)
    torch.autograd.gradcheck(lambda w, r: simpo(Simpo(), pairs_of(w, r, *counts))[0], [chosen, rejected])
    torch.autograd.gradcheck(
        lambda w, r: reward_model(RewardModel(centering_coefficient=0.1), scores_of(w, r))[0], [chosen, rejected]
    )


def test_extreme_margins_stay_finite() -> None:
    for margin in (-1e4, 1e4):
        chosen = vector(margin).requires_grad_()
        pairs = pairs_of(chosen, vector(0), vector(1), vector(1), vector(0), vector(0))
        losses = simpo(Simpo(), pairs)[0]
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
        source = PREFERENCE_OBJECTIVES.of(method.model_construct())
        for paper in re.findall(r"arXiv:\d{4}\.\d{5}", method.__doc__ or ""):
            assert paper in re.sub(r"\s+", " ", source.__doc__ or ""), f"{source.__name__} does not name {paper}"
