"""Sums of objectives: each term counts with its weight and sees the same rows."""

from __future__ import annotations

import pytest
import torch

from plumbline_api.messages import InvalidSpec, validate
from plumbline_api.methods.preference.choice import Mixture
from plumbline_api.methods.preference.direct import Dpo, Ipo
from plumbline_trainer.objectives.preference.direct import dpo, ipo
from plumbline_trainer.objectives.preference.inputs import Pairs
from plumbline_trainer.objectives.preference.mixture import mixture
from tests.trainer.objectives.records import completions_by_token

DPO_AND_IPO = Mixture.model_validate(
    {"terms": [{"weight": 0.8, "objective": {"dpo": {"beta": 0.5}}}, {"weight": 0.3, "objective": {"ipo": {}}}]}
)


def pairs() -> Pairs:
    """Two pairs with completions of 3 and 1 tokens."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    chosen, rejected, *references = (-torch.rand(2, 3, generator=generator, dtype=torch.float64) for _ in range(4))
    return Pairs(
        completions_by_token(chosen.requires_grad_(), mask, references[0]),
        completions_by_token(rejected, mask, references[1]),
    )


def test_the_loss_is_the_weighted_sum() -> None:
    rows = pairs()
    losses, metrics = mixture(DPO_AND_IPO, rows)
    torch.testing.assert_close(losses, 0.8 * dpo(Dpo(beta=0.5), rows)[0] + 0.3 * ipo(Ipo(), rows)[0])
    assert metrics["loss/dpo"].value == pytest.approx(dpo(Dpo(beta=0.5), rows)[0].mean().item())
    assert metrics["rewards/margin"].value == pytest.approx(dpo(Dpo(beta=0.5), rows)[1]["rewards/margin"].value)


def test_demonstrations_are_the_chosen_completions_each_by_the_mean_of_its_tokens() -> None:
    rows = pairs()
    parameters = Mixture.model_validate(
        {"terms": [{"objective": {"dpo": {}}}, {"weight": 2, "objective": {"sft": {}}}]}
    )
    losses, _ = mixture(parameters, rows)
    likelihood = -rows.chosen.logprob / torch.tensor([3.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(losses, dpo(Dpo(), rows)[0] + 2 * likelihood)


def test_the_gradient_is_the_weighted_sum_of_gradients() -> None:
    rows = pairs()
    tokens = rows.chosen.by_token
    assert tokens is not None
    whole, first, second = (
        torch.autograd.grad(losses.sum(), tokens.policy, retain_graph=True)[0]
        for losses in (mixture(DPO_AND_IPO, rows)[0], dpo(Dpo(beta=0.5), rows)[0], ipo(Ipo(), rows)[0])
    )
    torch.testing.assert_close(whole, 0.8 * first + 0.3 * second)


@pytest.mark.parametrize("key", ["kto", "rewardModel", "trDpo", "mixture"])
def test_objectives_that_need_more_than_a_pair_are_no_terms(key: str) -> None:
    with pytest.raises(InvalidSpec, match=key):
        validate(Mixture, {"terms": [{"objective": {"dpo": {}}}, {"objective": {key: {}}}]})
