"""Entropies, and the log-probabilities beside them, equal those of a full softmax, in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch

from plumbline_trainer.data.batches import share_prompts
from plumbline_trainer.modeling import linear_head
from plumbline_trainer.modeling.linear_head import LinearHeadEntropy, LinearHeadLogprobs
from plumbline_trainer.modeling.logprobs import completion_logprobs
from plumbline_trainer.modeling.token_entropy import completion_logprobs_and_entropy
from tests.trainer.test_logprobs import SEQUENCES, SIBLINGS, VOCABULARY, batch_of, gradient, model_of

HEADS = ["llama", "gemma2 (logits are capped)", "cohere (logits are scaled)", "gpt2 (absolute positions)"]


def naive_entropies(name: str, temperature: float) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """Each sequence by itself, from all of its logits."""
    model = model_of(name)
    found = []
    for sequence in SEQUENCES:
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        logits = model(input_ids=ids).logits[0, len(sequence.prompt_ids) - 1 : -1].float() / temperature
        found.append(torch.distributions.Categorical(logits=logits).entropy())
    return model, found


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_equal_the_naive_computation(name: str, temperature: float) -> None:
    model, expected = naive_entropies(name, temperature)
    logprobs, entropies = completion_logprobs_and_entropy(model, batch_of(SEQUENCES), temperature=temperature)
    plain = completion_logprobs(model, batch_of(SEQUENCES), temperature=temperature)
    torch.testing.assert_close(logprobs.values, plain.values, rtol=1e-5, atol=1e-6)
    assert not entropies[~logprobs.mask].any()
    for row, values in enumerate(expected):
        torch.testing.assert_close(entropies[row, : len(values)], values, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, entropies.shape[1])
    ours = gradient(model, (entropies * weights).sum() + (logprobs.values * weights.flip(0)).sum())
    theirs = gradient(
        model,
        torch.stack([(values * weights[: len(values)]).sum() for values in expected]).sum()
        + (plain.values * weights.flip(0)).sum(),
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kept", [0, 10**6])
@pytest.mark.parametrize("block", [3, 7, 2048])
def test_a_linear_head_in_blocks(monkeypatch: pytest.MonkeyPatch, block: int, kept: int) -> None:
    monkeypatch.setattr(linear_head, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(n, 8, generator=generator) for n in (5, 11))
    bias, targets = torch.randn(11, generator=generator), torch.tensor([0, 3, 10, 3, 7])
    leaves = [tensor.requires_grad_() for tensor in (states, weight, bias)]
    logprobs, entropies = LinearHeadEntropy.apply(*leaves, targets, 0.5, kept)
    distribution = torch.distributions.Categorical(logits=(states @ weight.T + bias) * 0.5)
    expected = [distribution.log_prob(targets), distribution.entropy()]
    outer = [torch.linspace(-1, 2, 5), torch.linspace(3, -1, 5)]
    ours = torch.autograd.grad([logprobs, entropies], leaves, outer)
    torch.testing.assert_close([logprobs, entropies], expected)
    for mine, other in zip(ours, torch.autograd.grad(expected, leaves, outer), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_extremes_are_exact_and_finite() -> None:
    """A certain distribution has entropy 0, a uniform one log V, wherever the block with the largest logit is."""
    size = 2 * linear_head.BLOCK
    weight = torch.zeros(size, 2)
    weight[5, 0], weight[-1, 0] = 1e4, -1e4
    states = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    _, entropies = LinearHeadEntropy.apply(states, weight, None, torch.tensor([5, 5, 5]), 1.0, 0)
    assert entropies.tolist() == pytest.approx([0, 0, math.log(size)], rel=1e-6)
    (slope,) = torch.autograd.grad(entropies.sum(), states)
    assert slope.isfinite().all()


def test_no_more_is_computed_than_for_log_probabilities_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Size] = []
    make = linear_head._logits

    def recorded(*arguments: torch.Tensor) -> torch.Tensor:
        logits = make(*arguments)  # type: ignore[arg-type]
        made.append(logits.shape)
        return logits

    monkeypatch.setattr(linear_head, "BLOCK", 16)
    monkeypatch.setattr(linear_head, "_logits", recorded)
    states, weight = torch.ones(10, 4, requires_grad=True), torch.ones(VOCABULARY, 4)
    for function in (LinearHeadLogprobs, LinearHeadEntropy):
        made.clear()
        result = function.apply(states, weight, None, torch.zeros(10, dtype=torch.long), 1.0, 10**6)
        loss = result.sum() if isinstance(result, torch.Tensor) else (result[0] + result[1]).sum()
        loss.backward()
        assert made == [(10, 16), (10, 16), (10, 16), (10, 13)]


def test_chunks_and_shared_prompts_change_nothing() -> None:
    capped = model_of("gemma2 (logits are capped)")
    whole = completion_logprobs_and_entropy(capped, batch_of(SEQUENCES))[1]
    chunked = completion_logprobs_and_entropy(capped, batch_of(SEQUENCES), logit_elements=VOCABULARY)[1]
    torch.testing.assert_close(whole, chunked)
    model = model_of()
    apart = completion_logprobs_and_entropy(model, batch_of(SIBLINGS))[1]
    together = completion_logprobs_and_entropy(model, share_prompts(SIBLINGS, 0, one_row=True))[1]
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-5)
