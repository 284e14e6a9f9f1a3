"""DPO against PPO on three answers of which the data never shows one (Xu et al. 2024, arXiv:2404.10719)."""

import math

import pytest
import torch
from torch import Tensor

from plumbline_api.methods.kl import KlInLoss
from plumbline_api.methods.policy.clipped import Ppo
from plumbline_api.methods.preference.direct import Dpo
from plumbline_trainer.modeling.moving_reference import mix_parameters
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.loss import policy_loss
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs
from plumbline_trainer.objectives.registry import implementation_of

REFERENCE = torch.tensor([0.1, 0.85, 0.05], dtype=torch.float64)
"""Answer 0 is preferred over answer 1; answer 2 is in no pair."""

REWARDS = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
"""As of a reward model that learnt the preference and rates what it never saw low."""


def preferences_only(steps: int = 100) -> Tensor:
    """DPO on the one pair there is, whose label is right in nine of ten cases."""
    parameters = Dpo(beta=1.0, label_smoothing=0.1)
    logits, one = REFERENCE.log(), torch.ones(1, dtype=torch.float64)
    for _ in range(steps):
        leaf = logits.clone().requires_grad_()
        logprobs = leaf.log_softmax(0)
        pair = Pairs(
            Completions(logprobs[:1], one, reference=REFERENCE[:1].log()),
            Completions(logprobs[1:2], one, reference=REFERENCE[1:2].log()),
        )
        losses = implementation_of(parameters)(parameters, pair)[0]
        logits = logits - 2.0 * torch.autograd.grad(losses.sum(), leaf)[0]
    return logits.softmax(0)


def sampled(share: float = 0.0, rounds: int = 40, coefficient: float = 0.3) -> Tensor:
    """PPO on expected rewards with a KL penalty; the reference moves by `share` to the policy after each round."""
    logits, reference = REFERENCE.log(), {"logits": REFERENCE.log().clone()}
    for _ in range(rounds):
        old = logits.log_softmax(0)
        values = REWARDS - (old.exp() * REWARDS).sum()
        for _ in range(4):
            leaf = logits.clone().requires_grad_()
            batch = PolicyTokens(
                leaf.log_softmax(0)[:, None],
                torch.ones(3, 1, dtype=torch.bool),
                values[:, None],
                old_logprobs=old[:, None],
                reference_logprobs=reference["logits"].log_softmax(0)[:, None],
            )
            penalty = KlInLoss(coefficient=coefficient, importance_weighted=True)
            rows = [batch.rows(torch.tensor([row])) for row in range(3)]
            parts = [policy_loss(Ppo(), one, StepCounts(1, 1, 1), kl=penalty) for one in rows]
            loss = (old.exp() * torch.stack([part for part, _ in parts])).sum()
            logits = logits - torch.autograd.grad(loss, leaf)[0]
        mix_parameters(reference, {"logits": logits}, share)
    return logits.softmax(0)


def test_dpo_raises_an_answer_that_no_pair_shows_and_ppo_does_not():
    """The loss says nothing of the third answer: it gets its part of what the rejected one loses.

    At DPO's optimum the log-ratios of the pair are apart by log 9, in a table log 3 up and log 3 down.
    """
    optimum = (REFERENCE.log() + torch.tensor([1.0, -1.0, 0.0]).double() * math.log(3)).softmax(0)
    torch.testing.assert_close(preferences_only(), optimum, rtol=0, atol=1e-6)
    assert optimum[2] > 1.5 * REFERENCE[2]
    assert sampled()[2] < REFERENCE[2]
    assert sampled()[0] > 0.5


def test_ppo_ends_at_the_regularized_optimum():
    """With a fixed reference: reference x exp(R / coefficient) / Z."""
    expected = (REFERENCE.log() + REWARDS / 0.3).softmax(0)
    torch.testing.assert_close(sampled(rounds=80), expected, rtol=0, atol=0.02)


def test_a_reference_that_follows_lets_the_policy_go_farther():
    fixed, following = sampled(), sampled(share=0.3)
    assert following[0] > fixed[0] + 0.05
    assert following.sum().item() == pytest.approx(1.0)
