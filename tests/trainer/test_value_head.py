"""Values of states of a small Llama: the head on its hidden states, and models with a head of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from plumbline_api.methods.optimization import Lora
from plumbline_trainer.data.batches import TokenSequence, pad_sequences, share_prompts
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import predicting_states
from plumbline_trainer.modeling.value_head import load_value_model, new_value_head, value_outputs

CPU = torch.device("cpu")
SEQUENCES = [
    TokenSequence([1, 3, 9, 10], [11, 12, 2]),
    TokenSequence([1, 3, 9, 10], [13, 2]),
    TokenSequence([1, 3, 20], [21, 22, 23, 24, 2]),
]


def value_model(directory: Path, outputs: int = 1, *, seed: int = 0, frozen: bool = False) -> nn.Module:
    return load_value_model(
        str(directory), outputs, pad_token_id=0, seed=seed, dtype="float32", device=CPU, frozen=frozen
    )


@pytest.fixture
def value_directory(llama_directory: Path, tmp_path: Path) -> Path:
    """A value model as a run before could have left it."""
    directory = tmp_path / "value-model"
    value_model(llama_directory, seed=5).save_pretrained(directory)  # type: ignore[operator]
    return directory


def test_a_new_head_gives_every_state_the_same_value_and_has_a_gradient(llama_directory: Path) -> None:
    policy = load_policy(str(llama_directory), dtype="float32", device=CPU)
    head = new_value_head(policy, 3)
    outputs = head(predicting_states(policy, pad_sequences(SEQUENCES, 0)))
    assert outputs.shape == (10, 3)
    assert bool((outputs == 0).all())
    outputs.sum().backward()
    assert head.weight.grad is not None and bool((head.weight.grad != 0).any())


def test_a_head_on_an_adapted_policy_is_no_part_of_it(llama_directory: Path) -> None:
    policy = add_lora(load_policy(str(llama_directory), dtype="float32", device=CPU), Lora(rank=2), seed=0)
    before = [name for name, _ in policy.named_parameters()]
    new_value_head(policy, 1)
    assert [name for name, _ in policy.named_parameters()] == before


def test_a_value_model_reads_the_state_before_each_token(llama_directory: Path) -> None:
    """The value before completion token t is the head's output at the token before it, the prompt's last for the
    first; computed here by transformers' own body on each sequence alone."""
    model = value_model(llama_directory)
    found = value_outputs(model, pad_sequences(SEQUENCES, 0))
    expected = []
    for sequence in SEQUENCES:
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator,union-attr]
        first = len(sequence.prompt_ids) - 1
        expected.append(model.score(states[0, first:-1]))  # type: ignore[operator]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one_row", [True, False])
def test_sequences_may_share_their_prompt(llama_directory: Path, one_row: bool) -> None:
    model = value_model(llama_directory, 4)
    shared = value_outputs(model, share_prompts(SEQUENCES, 0, one_row=one_row))
    torch.testing.assert_close(shared, value_outputs(model, pad_sequences(SEQUENCES, 0)), rtol=1e-4, atol=1e-5)


def test_the_start_of_a_models_head_depends_on_the_seed_alone(llama_directory: Path) -> None:
    def start(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn from the global generator before
        weight: torch.Tensor = value_model(llama_directory, seed=seed).score.weight.detach()  # type: ignore[assignment,union-attr]
        return weight

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_a_frozen_model_has_no_gradient_and_says_what_it_said(llama_directory: Path, value_directory: Path) -> None:
    trained = value_model(llama_directory, seed=5)
    frozen = value_model(value_directory, seed=77, frozen=True)
    batch = pad_sequences(SEQUENCES, 0)
    torch.testing.assert_close(value_outputs(frozen, batch), value_outputs(trained, batch))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not value_outputs(frozen, batch).requires_grad


def test_a_reward_model_can_be_read_as_a_value_model(value_directory: Path) -> None:
    """At the last token of prompt and completion it says what it says as a reward model."""
    frozen = value_model(value_directory, frozen=True)
    reward_model = AutoModelForSequenceClassification.from_pretrained(value_directory, num_labels=1)
    ids = torch.tensor([[1, 3, 9, 10, 11]])
    said = reward_model(input_ids=ids).logits[0]
    before_the_next = value_outputs(frozen, pad_sequences([TokenSequence([1, 3, 9, 10], [11, 12])], 0))[1]
    torch.testing.assert_close(before_the_next, said.detach(), rtol=1e-4, atol=1e-5)


def test_a_frozen_model_without_a_head_is_refused(llama_directory: Path) -> None:
    with pytest.raises(ModelError, match=r"missing from the weights: score\.weight"):
        value_model(llama_directory, frozen=True)


def test_a_model_whose_head_has_other_outputs_is_refused(value_directory: Path) -> None:
    with pytest.raises(ModelError, match="its head has 1 outputs, the critic's loss needs 51"):
        value_model(value_directory, 51, frozen=True)
