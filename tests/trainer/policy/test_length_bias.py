"""GRPO's division by length against Dr. GRPO's constant (Liu et al. 2025, arXiv:2503.20783)."""

import pytest
import torch

from plumbline_api.methods.policy.clipped import DrGrpo, Grpo
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.loss import policy_loss
from tests.trainer.policy.records import loss_of


def wrong_answers(lengths: list[int]) -> PolicyTokens:
    """Completions of these lengths, all with the advantage -1."""
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    logprobs = torch.full((len(lengths), width), -1.0, dtype=torch.float64, requires_grad=True)
    return PolicyTokens(logprobs, mask, torch.full((len(lengths), width), -1.0, dtype=torch.float64))


def test_a_token_of_a_long_wrong_answer_is_pushed_less_by_grpo_only():
    batch = wrong_answers([2, 20])
    for parameters, expected in [(Grpo(), (1 / 4, 1 / 40)), (DrGrpo(), (1 / 16, 1 / 16))]:
        (gradient,) = torch.autograd.grad(loss_of(parameters, batch)[0], batch.logprobs)
        assert (gradient[0, 0].item(), gradient[1, 0].item()) == pytest.approx(expected)


def test_dr_grpo_has_the_unbiased_policy_gradient_up_to_a_constant():
    """By enumeration over groups of two: E of its gradient is grad E[R] times (G - 1)/G over the constant.

    A policy that ends after one token or goes on to a second; REINFORCE with the group's mean as baseline keeps
    (G - 1)/G of the gradient, as each reward is part of its own baseline.
    """
    logits = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([0.2, 1.0, 0.0], dtype=torch.float64)
    first, second = logits[:2].log_softmax(0), logits[2:].log_softmax(0)
    zero = first.new_zeros(())
    logprobs = torch.stack([torch.stack([first[0], zero]), *(torch.stack([first[1], part]) for part in second)])
    mask = torch.tensor([[True, False], [True, True], [True, True]])
    chance = logprobs.sum(dim=1).exp()
    (exact,) = torch.autograd.grad((chance * rewards).sum(), logits, retain_graph=True)
    found = {}
    for parameters in [Grpo(), DrGrpo()]:
        total = torch.zeros(4, dtype=torch.float64)
        for left in range(3):
            for right in range(3):
                pair = torch.tensor([left, right])
                advantages = (rewards[pair] - rewards[pair].mean())[:, None].expand(2, 2)
                batch = PolicyTokens(logprobs[pair], mask[pair], advantages)
                loss, _ = policy_loss(parameters, batch, StepCounts(2.0, float(mask[pair].sum()), 2))
                (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
                total -= (chance[left] * chance[right]).item() * gradient
        found[type(parameters)] = total
    torch.testing.assert_close(found[DrGrpo], exact * 0.5 / 2)
    cosine = torch.nn.functional.cosine_similarity(found[Grpo], exact, dim=0)
    assert cosine < 0.999


def mean_length_of_wrong_answers(parameters: PolicyObjective, steps: int = 200) -> float:
    """After descent on exact gradients, for a policy that cannot be right and only chooses how long to be wrong.

    Advantages are -1 for every wrong answer, as in groups in which somebody else is right.
    """
    lengths = torch.tensor([1, 4, 16])
    logits = torch.zeros(3, dtype=torch.float64)
    mask = torch.arange(16) < lengths[:, None]
    for _ in range(steps):
        leaf = logits.clone().requires_grad_()
        choice = leaf.log_softmax(0)
        logprobs = (choice / lengths)[:, None].expand(3, 16)  # the choice of a length is spread over its tokens
        batch = PolicyTokens(logprobs, mask, torch.full((3, 16), -1.0, dtype=torch.float64))
        weights = choice.detach().exp()
        losses = torch.stack(
            [policy_loss(parameters, batch.rows(torch.tensor([row])), StepCounts(1.0, 1.0, 16))[0] for row in range(3)]
        )
        logits = logits - torch.autograd.grad((weights * losses).sum(), leaf)[0]
    return float((logits.softmax(0) * lengths).sum())


def test_wrong_answers_grow_under_grpo_and_not_under_dr_grpo():
    start = (1 + 4 + 16) / 3
    assert mean_length_of_wrong_answers(Grpo()) > start + 3
    assert mean_length_of_wrong_answers(DrGrpo()) == pytest.approx(start, abs=0.5)
