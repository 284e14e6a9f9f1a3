"""Each objective against numbers worked out by hand, its probability form, its known optimum and its gradient."""

from __future__ import annotations

import re

import pytest
import torch

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.methods.preference.reward_model import RewardModel
from plumbline_trainer.objectives import policy, preference  # noqa: F401  (registers the objectives)
from plumbline_trainer.objectives.preference.reward_model import reward_model
from plumbline_trainer.objectives.registry import (
    POLICY_OBJECTIVES,
    PREFERENCE_OBJECTIVES,
    implementation_of,
    implements,
)
from tests.trainer.objectives.records import (
    scores_of,
    vector,
)

# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_reward_model_by_hand() -> None:
    """r = (2, 1): log(1 + e^-1) = 0.3132617, plus 0.1 x 3^2 = 0.9."""
    losses, _ = reward_model(RewardModel(centering_coefficient=0.1), scores_of(vector(2), vector(1)))
    assert losses.tolist() == pytest.approx([1.21326168751822286], abs=1e-12)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_of_the_other_objectives_equal_finite_differences() -> None:
    chosen, rejected = vector(-3, -9).requires_grad_(), vector(-4, -8).requires_grad_()
    torch.autograd.gradcheck(
        lambda w, r: reward_model(RewardModel(centering_coefficient=0.1), scores_of(w, r))[0], [chosen, rejected]
    )


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
