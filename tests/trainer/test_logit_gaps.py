"""Differences of logits from a model equal those of its full logits, in value and gradient, and never make these."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plumbline_api.methods.optimization import Lora
from plumbline_trainer.data.batches import share_prompts
from plumbline_trainer.modeling import token_divergence
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.modeling.logit_gaps import greedy_tokens, logit_gaps, reference_greedy_tokens
from plumbline_trainer.modeling.logprobs import laid_out, predicting_states
from plumbline_trainer.modeling.reference import Reference
from tests.trainer.test_logprobs import SEQUENCES, SIBLINGS, VOCABULARY, batch_of, gradient, model_of

HEADS = ["llama", "tied embeddings", "gemma2 (logits are capped)", "cohere (logits are scaled)"]


def dense(model: nn.Module) -> list[torch.Tensor]:
    """All logits before the completion tokens of each sequence, [T, V], by itself."""
    found = []
    for sequence in SEQUENCES:
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        found.append(model(input_ids=ids).logits[0, len(sequence.prompt_ids) - 1 : -1].float())
    return found


def gaps_of(model: nn.Module, elements: int = 2**26) -> torch.Tensor:
    batch = batch_of(SEQUENCES)
    states = predicting_states(model, batch)
    largest = greedy_tokens(model, states, elements)
    return laid_out(logit_gaps(model, states, batch.targets[batch.mask], largest, elements), batch.mask)


@pytest.mark.parametrize("elements", [1, 2**26])
@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_equal_those_of_all_logits(name: str, elements: int) -> None:
    model = model_of(name)
    ours = gaps_of(model, elements)
    expected = []
    for sequence, logits in zip(SEQUENCES, dense(model), strict=True):
        taken = logits.gather(1, torch.tensor(sequence.completion_ids)[:, None])[:, 0]
        expected.append(taken - logits.amax(dim=1))
    for row, values in enumerate(expected):
        torch.testing.assert_close(ours[row, : len(values)], values, rtol=1e-5, atol=1e-5)
        assert not ours[row, len(values) :].any()
    weights = torch.linspace(-1, 2, ours.shape[1])
    mine = gradient(model, (ours * weights).sum())
    theirs = gradient(model, torch.stack([(values * weights[: len(values)]).sum() for values in expected]).sum())
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def test_the_references_choice_is_its_argmax() -> None:
    model = model_of()
    found = reference_greedy_tokens(Reference(model), batch_of(SEQUENCES))
    for row, logits in enumerate(dense(model)):
        assert found[row, : len(logits)].tolist() == logits.argmax(dim=1).tolist()


def test_with_an_adapter_the_reference_is_the_policy_without_it() -> None:
    batch, bare = batch_of(SEQUENCES), model_of()
    adapted = add_lora(copy.deepcopy(bare), Lora(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    expected = reference_greedy_tokens(Reference(bare), batch)
    assert torch.equal(reference_greedy_tokens(Reference(adapted), batch), expected)
    assert not torch.equal(reference_greedy_tokens(Reference(adapted, own_adapter=True), batch), expected)


def test_shared_prompts_change_nothing() -> None:
    model = model_of()
    apart = reference_greedy_tokens(Reference(model), batch_of(SIBLINGS))
    together = reference_greedy_tokens(Reference(model), share_prompts(SIBLINGS, 0, one_row=True))
    assert torch.equal(apart, together)


def test_no_more_logits_than_those_of_a_chunk_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Size] = []
    make = token_divergence.logits_function

    def recorded(model: nn.Module) -> nn.Module:
        logits_of = make(model)

        def logits(states: torch.Tensor) -> torch.Tensor:
            found = logits_of(states)
            made.append(found.shape)
            return found

        return logits  # type: ignore[return-value]

    monkeypatch.setattr(token_divergence, "logits_function", recorded)
    model = model_of()
    states = torch.randn(40, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    largest = greedy_tokens(model, states, 4 * 16 * VOCABULARY)
    logit_gaps(model, states, torch.zeros(40, dtype=torch.long), largest).sum().backward()
    assert made == [(16, VOCABULARY), (16, VOCABULARY), (8, VOCABULARY)]
