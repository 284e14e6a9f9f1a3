"""GVPO: its optimum for any sampler, its gradient, and REBEL as the case of two."""

from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.policy.group_regression import Gvpo
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from tests.trainer.policy.bandit import every_action, expected_loss, minimize, probabilities, tilted
from tests.trainer.policy.records import loss_of, random_tokens, tokens

OLD = probabilities(0.1, 0.4, 0.3, 0.2)
REWARDS = torch.tensor([1.0, 0.2, -0.5, 0.6], dtype=torch.float64)


def group(logits: torch.Tensor, rewards: torch.Tensor = REWARDS) -> PolicyTokens:
    one = torch.zeros(len(rewards), dtype=torch.long)
    return every_action(logits, OLD, torch.zeros_like(rewards), rewards=rewards, groups=one)


@pytest.mark.parametrize("sampler", [(0.25, 0.25, 0.25, 0.25), (0.7, 0.1, 0.1, 0.1)], ids=str)
def test_the_optimum_is_the_regularized_one_whatever_the_sampler(sampler):
    """Every sampler that covers all actions has the same minimum, at old x exp(R / beta) / Z."""
    weights = probabilities(*sampler)
    found = minimize(lambda logits: expected_loss(Gvpo(beta=0.5), group(logits), weights), torch.zeros(4).double())
    torch.testing.assert_close(found.softmax(0), tilted(OLD, REWARDS / 0.5), rtol=0, atol=1e-4)


def test_a_constant_added_to_the_rewards_changes_nothing():
    batch = random_tokens(seed=3)
    loss, _ = loss_of(Gvpo(), batch)
    again, _ = loss_of(Gvpo(), replace(batch, rewards=batch.rewards + 17))
    assert again.item() == pytest.approx(loss.item())


def test_two_completions_are_rebel_up_to_scale():
    """Half of (1/beta) ((R1 - R2) - beta (h1 - h2))^2 each, so that their mean is half of REBEL's square times beta."""
    batch = tokens(
        [[-1.0, -0.5], [-2.0, -0.1]],
        [0.0, 0.0],
        old=[[-1.2, -0.4], [-1.5, -0.7]],
        rewards=torch.tensor([1.0, 0.25]),
        groups=torch.tensor([5, 5]),
    )
    loss, _ = loss_of(Gvpo(beta=0.3), batch)
    h = (-1.0 - 0.5 + 1.2 + 0.4) - (-2.0 - 0.1 + 1.5 + 0.7)
    rebel = (h - 0.75 / 0.3) ** 2
    assert loss.item() == pytest.approx(0.3 / 4 * rebel)


def test_the_gradient_is_the_weighted_likelihood_of_the_paper():
    batch = tokens(
        [[-1.0], [-2.0], [-0.3]],
        [0.0] * 3,
        old=[[-1.1], [-1.4], [-0.9]],
        rewards=torch.tensor([1.0, 0.0, 0.5]),
        groups=torch.tensor([1, 1, 1]),
    )
    loss, _ = loss_of(Gvpo(beta=0.2), batch)
    (gradient,) = torch.autograd.grad(loss, batch.logprobs)
    h = (batch.logprobs.detach() - batch.old_logprobs)[:, 0]
    rewards = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    weights = (rewards - rewards.mean()) - 0.2 * (h - h.mean())
    torch.testing.assert_close(gradient[:, 0], -weights / 2)


def test_a_lone_completion_and_missing_inputs():
    batch = tokens([[-1.0]], [1.0], old=[[-0.5]], rewards=torch.tensor([1.0]), groups=torch.tensor([0]))
    assert loss_of(Gvpo(), batch)[0].item() == 0
    with pytest.raises(ValueError, match="groups"):
        loss_of(Gvpo(), replace(batch, groups=None))
