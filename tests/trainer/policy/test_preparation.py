"""What an objective prepares sees the whole rollout, without padding, and has one of two shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plumbline_api.methods.policy.clipped import Grpo
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS, prepared
from plumbline_trainer.rollout.judged import JudgedRollout, judged

ROLLOUT = judged([0.0, 1.0], [0, 0], lengths=[2, 1])


class Probe(PolicyObjective):
    """An objective of these tests; it has no key and is no method of the API."""

    returns: int
    """Dimensions of what its preparation gives."""


GIVEN: list[Tensor] = []
"""The advantages that the preparation of `Probe` has seen."""


@PREPARATIONS.implements(Probe)
def prepare(parameters: Probe, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    GIVEN.append(advantages)
    return {"some": torch.ones((*advantages.shape, 1)[: parameters.returns])}


def test_an_objective_without_preparation_has_nothing_prepared() -> None:
    assert prepared(Grpo(), ROLLOUT, torch.zeros(2)) == {}


def test_advantages_are_by_token_and_zero_outside() -> None:
    GIVEN.clear()
    prepared(Probe(returns=1), ROLLOUT, torch.tensor([3.0, 4.0]))
    prepared(Probe(returns=2), ROLLOUT, torch.tensor([[1.0, 2.0], [3.0, float("nan")]]))
    assert [advantages.tolist() for advantages in GIVEN] == [[[3, 3], [4, 0]], [[1, 2], [3, 0]]]


@pytest.mark.parametrize("dimensions", [1, 2])
def test_one_number_a_completion_or_a_token(dimensions: int) -> None:
    assert prepared(Probe(returns=dimensions), ROLLOUT, torch.zeros(2))["some"].dim() == dimensions


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="some of shape"):
        prepared(Probe(returns=3), ROLLOUT, torch.zeros(2))
