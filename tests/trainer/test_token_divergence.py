"""Divergences over the vocabulary equal the dense computation, in value and gradient, however they are cut."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, GraniteConfig, LlamaConfig

from plumbline_api.methods.optimization import Lora
from plumbline_trainer.data.batches import SequenceBatch, TokenSequence, pad_sequences, share_prompts
from plumbline_trainer.modeling.adapters import adapter_off, add_lora
from plumbline_trainer.modeling.logprobs import predicting_states
from plumbline_trainer.modeling.reference import Reference
from plumbline_trainer.modeling.token_divergence import completion_kl, token_statistic
from plumbline_trainer.objectives.preference.weighting import typical_logprobs

VOCABULARY = 61
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGURATIONS = {
    "llama": LlamaConfig(**SMALL),
    "tied embeddings": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "gemma2 (logits are capped)": Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0),
    "granite (logits are divided)": GraniteConfig(**SMALL, logits_scaling=4.0),
}
SEQUENCES = [
    TokenSequence([3, 4, 5], [6, 7]),
    TokenSequence([3, 4, 5], [9, 10, 11, 12, 13, 14]),
    TokenSequence([15, 16, 17, 18, 19, 20, 21], [22]),
    TokenSequence([23, 24], [t % VOCABULARY for t in range(40)]),
]
BATCH = pad_sequences(SEQUENCES, 0)


def model_of(name: str = "llama", seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = AutoModelForCausalLM.from_config(CONFIGURATIONS[name])
    return model.eval()


def dense_logprobs(model: nn.Module) -> torch.Tensor:
    """[N, V]: log-probabilities of all tokens at all positions that predict completion tokens of `BATCH`."""
    logits = model(input_ids=BATCH.input_ids).logits.float().flatten(0, 1)
    return logits[BATCH.source].log_softmax(-1)


def dense_kl(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """[B, T] from log-probabilities [N, V]: the sum over the vocabulary of p_ref log(p_ref / p)."""
    divergences = nn.functional.kl_div(policy, reference.detach(), reduction="none", log_target=True).sum(-1)
    return torch.zeros(BATCH.mask.shape).masked_scatter(BATCH.mask, divergences)


def divergence(policy: nn.Module, reference: Reference, batch: SequenceBatch = BATCH, **options: int) -> torch.Tensor:
    """[B, T]: what is tested, from one forward pass of the policy."""
    return completion_kl(policy, reference, predicting_states(policy, batch), batch, **options)


def gradient(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [g.clone() for g in torch.autograd.grad(loss, parameters)]


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("positions", [16, 1000])
def test_values_and_gradients_equal_the_dense_computation(name: str, positions: int) -> None:
    policy, reference = model_of(name), model_of(name, seed=1)
    values = divergence(policy, Reference(reference), logit_elements=4 * positions * VOCABULARY)
    expected = dense_kl(dense_logprobs(policy), dense_logprobs(reference))
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    assert not values[~BATCH.mask].any()
    assert (values[BATCH.mask] > 1e-3).all()
    weights = torch.linspace(-1, 1, BATCH.mask.shape[1])
    for ours, theirs in zip(
        gradient(policy, (values * weights).sum()), gradient(policy, (expected * weights).sum()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_the_reference() -> None:
    policy, reference = model_of(), model_of(seed=1)
    divergence(policy, Reference(reference)).sum().backward()
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_at_the_reference_value_and_gradient_are_zero() -> None:
    policy = model_of()
    values = divergence(policy, Reference(model_of()))
    assert values.abs().max() < 1e-5
    assert max(float(g.abs().max()) for g in gradient(policy, values.sum())) < 1e-4


@pytest.mark.parametrize("modules", [["q_proj", "down_proj"], ["v_proj", "lm_head"]])
def test_with_an_adapter_the_reference_is_the_policy_with_the_adapter_off(modules: list[str]) -> None:
    """Also where the head itself is adapted, whose logits are made again in the backward pass."""
    policy = add_lora(model_of(), Lora(rank=4, target_modules=modules), seed=0).eval()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    values = divergence(policy, Reference(policy), logit_elements=64 * VOCABULARY)
    ours = gradient(policy, values.sum())
    with torch.no_grad(), adapter_off(policy):
        reference = dense_logprobs(policy)
    expected = dense_kl(dense_logprobs(policy), reference)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    assert values.sum() > 1
    for mine, theirs in zip(ours, gradient(policy, expected.sum()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_sharing_prompts_changes_nothing() -> None:
    policy, reference = model_of(), Reference(model_of(seed=1))
    for model in (policy, reference.model):
        model.set_attn_implementation("plumbline_shared_prefix")  # type: ignore[operator]
    apart = divergence(policy, reference)
    shared = divergence(policy, reference, share_prompts(SEQUENCES, 0, one_row=True))
    torch.testing.assert_close(shared, apart, rtol=1e-4, atol=1e-5)


def test_no_more_than_a_chunk_of_positions_has_logits_and_none_are_kept_for_the_backward_pass() -> None:
    policy, reference = model_of(), model_of(seed=1)
    seen: list[int] = []
    kept: list[int] = []
    policy.get_output_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))  # type: ignore[operator]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 2 and tensor.shape[-1] == VOCABULARY:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        values = divergence(policy, Reference(reference), logit_elements=64 * VOCABULARY)
    assert seen == [16, 16, 16, 1]
    assert kept == []
    values.sum().backward()
    assert sum(seen) == 2 * 49


@pytest.mark.parametrize("alignment", ["sampled", "greedy"])
def test_statistics_of_all_logits(alignment: Any) -> None:
    model = model_of()
    states = predicting_states(model, BATCH).detach()
    found = token_statistic(model, states, partial(typical_logprobs, alignment), logit_elements=64 * VOCABULARY)
    probabilities = dense_logprobs(model).exp()
    expected = probabilities.square().sum(-1) if alignment == "sampled" else probabilities.amax(-1)
    torch.testing.assert_close(found, expected.log(), rtol=1e-4, atol=1e-5)
    assert not found.requires_grad
