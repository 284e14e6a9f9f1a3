"""Decoupled PPO: PPO where sampler and proximal policy are one, exact weights, stale data on a bandit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plumbline_api.methods.policy.clipped import Ppo
from plumbline_api.methods.policy.decoupled import DecoupledPpo, PpoEwma
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from tests.trainer.policy.bandit import expected_loss, probabilities
from tests.trainer.policy.records import loss_of, random_tokens, tokens

REWARDS = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("parameters", [DecoupledPpo(), PpoEwma()], ids=lambda parameters: parameters.member_key)
def test_with_one_policy_for_both_it_is_ppo_bit_by_bit(parameters):
    batch = random_tokens(seed=7)
    batch = replace(batch, sampled_logprobs=batch.old_logprobs)
    loss, plain = loss_of(parameters, batch)[0], loss_of(Ppo(), batch)[0]
    assert loss.item() == plain.item()
    gradients = [torch.autograd.grad(value, batch.logprobs)[0] for value in (loss, plain)]
    assert torch.equal(*gradients)


def test_by_hand():
    """Ratio 1.5 is clipped at 1.2; the token was 0.8 times as likely before the updates as to the sampler."""
    values = torch.tensor([[0.6]], dtype=torch.float64).log(), [[0.4]], [[0.5]]
    batch = tokens(values[0].tolist(), [2.0], old=torch.tensor(values[1]).log().tolist())
    batch = replace(batch, sampled_logprobs=torch.tensor(values[2], dtype=torch.float64).log())
    loss, metrics = loss_of(DecoupledPpo(), batch)
    assert loss.item() == pytest.approx(-0.8 * 1.2 * 2.0, rel=1e-6)
    assert metrics["staleness_weight"].value == pytest.approx(0.8, rel=1e-6)
    assert loss_of(DecoupledPpo(max_weight=0.5), batch)[0].item() == pytest.approx(-0.5 * 1.2 * 2.0, rel=1e-6)


def all_actions(logits: Tensor, old: Tensor, sampler: Tensor, advantages: Tensor) -> PolicyTokens:
    return PolicyTokens(
        logits.log_softmax(0)[:, None],
        torch.ones(3, 1, dtype=torch.bool),
        advantages[:, None],
        old_logprobs=old.log()[:, None],
        sampled_logprobs=sampler.log()[:, None],
    )


def test_the_weight_gives_the_surrogate_of_the_proximal_policy():
    """By enumeration: the mean over actions of any sampler is PPO's surrogate over actions of pi_prox."""
    old, sampler = probabilities(0.2, 0.5, 0.3), probabilities(0.6, 0.1, 0.3)
    logits, gains = torch.tensor([0.1, 0.4, -0.2], dtype=torch.float64), REWARDS - 0.3
    stale = expected_loss(DecoupledPpo(), all_actions(logits, old, sampler, gains), sampler)
    fresh = expected_loss(Ppo(), all_actions(logits, old, old, gains), old)
    assert stale.item() == pytest.approx(fresh.item())
    assert abs(expected_loss(Ppo(), all_actions(logits, old, old, gains), sampler).item() - fresh.item()) > 0.05


def test_with_stale_samples_the_decoupled_clip_learns_on():
    """The sampler is the first policy throughout. PPO clips around it and stands still; the other clip moves along."""

    def train(decoupled: bool, rounds: int = 12) -> float:
        sampler = probabilities(0.6, 0.3, 0.1)
        logits = sampler.log()
        for _ in range(rounds):
            proximal = logits.softmax(0)
            for _ in range(10):
                leaf = logits.clone().requires_grad_()
                gains = REWARDS - (leaf.detach().softmax(0) * REWARDS).sum()
                old = proximal if decoupled else sampler
                parameters = DecoupledPpo() if decoupled else Ppo()
                loss = expected_loss(parameters, all_actions(leaf, old, sampler, gains), sampler)
                logits = logits - torch.autograd.grad(loss, leaf)[0]
        return (logits.softmax(0) * REWARDS).sum().item()

    assert train(decoupled=True) > 0.8
    assert train(decoupled=False) < 0.5


def test_without_the_samplers_likelihoods_it_is_refused():
    with pytest.raises(ValueError, match="sampler"):
        loss_of(DecoupledPpo(), replace(random_tokens(), sampled_logprobs=None))
