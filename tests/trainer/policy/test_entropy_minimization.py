"""Entropy minimization: exact gradients by enumeration, and where it helps and harms."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plumbline_api.methods.policy.entropy_minimization import EntropyFinetuning, SequenceConfidence, TokenConfidence
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.policy.records import loss_of, random_tokens, tokens


def entropy(logits: Tensor) -> Tensor:
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def test_fine_tuning_is_the_mean_entropy_of_the_tokens():
    batch = random_tokens(on_policy=True)
    loss, _ = loss_of(EntropyFinetuning(), batch)
    lengths = batch.mask.sum(dim=1)
    expected = (torch.where(batch.mask, batch.entropy, 0.0).sum(dim=1) / lengths).mean()
    assert loss.item() == pytest.approx(expected.item())
    again, _ = loss_of(EntropyFinetuning(), replace(batch, advantages=batch.advantages + 5, rewards=batch.rewards - 3))
    assert again.item() == loss.item()


def test_sequence_confidence_by_hand():
    """Log-likelihoods -3, -1 and, alone in its group, -5."""
    batch = tokens([[-1.0, -2.0], [-0.4, -0.6], [-5.0, 0.0]], [0.0] * 3, groups=torch.tensor([0, 0, 1]))
    loss, metrics = loss_of(SequenceConfidence(), batch)
    assert loss.item() == pytest.approx((2.0 * -3.0 - 2.0 * -1.0) / 3)
    assert metrics["confidence"].value == pytest.approx(-3.0)


def pairs(logits: Tensor, per_token: bool) -> tuple[PolicyTokens, Tensor]:
    """All pairs of two-token completions as groups of two, and the probability of each pair, without gradient."""
    first, second = logits[:2].log_softmax(0), logits[2:].view(2, 2).log_softmax(1)
    logprobs = torch.stack([first.repeat_interleave(2), second.flatten()], dim=1)
    entropies = torch.stack([entropy(logits[:2]).expand(4), entropy(logits[2:].view(2, 2)).repeat_interleave(2)], dim=1)
    left, right = torch.cartesian_prod(torch.arange(4), torch.arange(4)).unbind(1)
    rows = torch.stack([left, right], dim=1).flatten()
    batch = PolicyTokens(
        logprobs[rows],
        torch.ones(32, 2, dtype=torch.bool),
        torch.zeros(32, 2, dtype=torch.float64),
        entropy=entropies[rows] if per_token else None,
        groups=torch.arange(32) // 2,
    )
    likelihood = logprobs.sum(dim=1).exp().detach()
    return batch, (likelihood[left] * likelihood[right]).repeat_interleave(2)


def test_sequence_confidence_is_unbiased_for_the_entropy_of_completions():
    """By enumeration of every pair: the expected gradient is that of H(pi), the entropy over all completions."""
    logits = torch.tensor([0.3, -0.4, 1.0, 0.2, -0.7, 0.1], dtype=torch.float64, requires_grad=True)
    batch, chance = pairs(logits, per_token=False)
    losses, _ = implementation_of(SequenceConfidence())(SequenceConfidence(), batch)
    (found,) = torch.autograd.grad((chance * losses.sum(dim=1)).sum() / 2, logits, retain_graph=True)
    logprobs = batch.logprobs[: 4 * 8 : 2][::4].sum(dim=1)
    torch.testing.assert_close(found, torch.autograd.grad(-(logprobs.exp() * logprobs).sum(), logits)[0])


def test_token_confidence_and_fine_tuning_add_up_to_the_gradient_of_the_entropy():
    """H(pi) = E[sum_t H_t]: the score term is token confidence's, the other one the gradient of fine-tuning's sum."""
    logits = torch.tensor([0.3, -0.4, 1.0, 0.2, -0.7, 0.1], dtype=torch.float64, requires_grad=True)
    batch, chance = pairs(logits, per_token=True)
    score, _ = implementation_of(TokenConfidence())(TokenConfidence(), batch)
    direct, _ = implementation_of(EntropyFinetuning())(EntropyFinetuning(), batch)
    total = (chance * (score + direct).sum(dim=1)).sum() / 2
    (found,) = torch.autograd.grad(total, logits, retain_graph=True)
    logprobs = batch.logprobs[: 4 * 8 : 2][::4].sum(dim=1)
    torch.testing.assert_close(found, torch.autograd.grad(-(logprobs.exp() * logprobs).sum(), logits)[0])


@pytest.mark.parametrize(("start", "right_gains"), [([0.8, 0.2, 0.0], True), ([0.2, 0.8, 0.0], False)])
def test_it_makes_the_likeliest_answer_likelier_right_or_wrong(start, right_gains):
    """Answer 0 is right. A policy whose modal answer is wrong loses accuracy: the failure that labels would prevent."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.tensor(start, dtype=torch.float64)
    before = logits.softmax(0)[0].item()
    for _ in range(150):
        drawn = torch.multinomial(logits.softmax(0), 64, replacement=True, generator=generator)
        leaf = logits.clone().requires_grad_()
        batch = PolicyTokens(
            leaf.log_softmax(0)[drawn][:, None],
            torch.ones(64, 1, dtype=torch.bool),
            torch.zeros(64, 1),
            groups=torch.zeros(64, dtype=torch.long),
        )
        loss, _ = loss_of(SequenceConfidence(), batch)
        logits = logits - torch.autograd.grad(loss, leaf)[0]
    after = logits.softmax(0)[0].item()
    assert after > 0.95 if right_gains else after < before - 0.2


def test_what_is_missing_is_refused():
    batch = tokens([[-1.0]], [0.0])
    with pytest.raises(ValueError, match="entropy"):
        loss_of(EntropyFinetuning(), batch)
    with pytest.raises(ValueError, match="groups"):
        loss_of(SequenceConfidence(), batch)
