"""Low-rank adapters: no effect at the start, only they are trained, the base comes back when they are off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_api.methods.optimization import Lora
from plumbline_trainer.data.batches import TokenSequence, pad_sequences
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.adapters import adapter_off, add_lora, has_adapter
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import check_head, completion_logprobs

BATCH = pad_sequences([TokenSequence([1, 3, 6], [7, 8, 2]), TokenSequence([1, 9], [10, 2])], 0)


def policy(directory: Path, **options: Any) -> Any:
    return load_policy(str(directory), device=torch.device("cpu"), **options)


def disturb(model: torch.nn.Module) -> None:
    """Moves the trained parameters as a few updates would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))


def test_a_new_adapter_changes_nothing_and_an_updated_one_is_taken_off(llama_directory: Path) -> None:
    base = completion_logprobs(policy(llama_directory), BATCH).values
    adapted = add_lora(policy(llama_directory), Lora(rank=4), seed=0)
    assert has_adapter(adapted)
    assert torch.equal(completion_logprobs(adapted, BATCH).values, base)
    disturb(adapted)
    assert not torch.allclose(completion_logprobs(adapted, BATCH).values, base, atol=1e-2)
    with adapter_off(adapted):
        assert torch.equal(completion_logprobs(adapted, BATCH).values, base)
    assert not torch.allclose(completion_logprobs(adapted, BATCH).values, base, atol=1e-2)


def test_every_linear_layer_but_the_head_is_adapted_and_nothing_else_is_trained(llama_directory: Path) -> None:
    adapted = add_lora(policy(llama_directory), Lora(rank=4), seed=0)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    check_head(adapted)


def test_the_update_is_scaled_by_alpha_over_rank_or_over_its_root(llama_directory: Path) -> None:
    """Delta W = scale x B A: checked on the merged weight."""
    for stabilized, scale in ((False, 8 / 4), (True, 8 / 2)):
        lora = Lora(rank=4, alpha=8, target_modules=["q_proj"], rank_stabilized=stabilized)
        adapted = add_lora(policy(llama_directory), lora, seed=0)
        disturb(adapted)
        layer = adapted.get_base_model().model.layers[0].self_attn.q_proj
        delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * scale
        before = layer.base_layer.weight.clone()
        merged = adapted.merge_and_unload().model.layers[0].self_attn.q_proj.weight
        torch.testing.assert_close(merged, before + delta)


def test_the_initial_adapter_depends_on_the_seed_alone(llama_directory: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn from the global generator before
        adapted = add_lora(policy(llama_directory), Lora(rank=4), seed=seed)
        return torch.cat([p.flatten() for n, p in adapted.named_parameters() if "lora_A" in n])

    state = torch.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    torch.set_rng_state(state)
    add_lora(policy(llama_directory), Lora(rank=4), seed=5)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left as it was"


def test_adapters_are_float32_over_a_bfloat16_model(llama_directory: Path) -> None:
    adapted = add_lora(policy(llama_directory, dtype="bfloat16"), Lora(rank=4), seed=0)
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in adapted.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    completion_logprobs(adapted, BATCH).values.sum().backward()


def test_activation_checkpointing_reaches_the_adapters_gradients(llama_directory: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        adapted = add_lora(policy(llama_directory, activation_checkpointing=checkpointing), Lora(rank=4), seed=0)
        disturb(adapted)
        completion_logprobs(adapted, BATCH).values.sum().backward()
        gradients.append([p.grad for p in adapted.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_names_that_match_no_layer_are_refused(llama_directory: Path) -> None:
    with pytest.raises(ModelError, match=r"peft\.lora\.targetModules \(nonesuch\) does not fit LlamaForCausalLM"):
        add_lora(policy(llama_directory), Lora(target_modules=["nonesuch"]), seed=0)


def test_a_model_without_adapter_cannot_switch_one_off(llama_directory: Path) -> None:
    model = policy(llama_directory)
    assert not has_adapter(model)
    with pytest.raises(TypeError, match="has no adapter"), adapter_off(model):
        pass
