"""One token a row, spelled out: the logits of the model's own forward pass, and only for models it is right for."""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from plumbline_api.methods.optimization import Lora
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.rollout.cache import RowCache
from plumbline_trainer.rollout.decoder import _project_large, direct_decoder, padding_bias
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.limits import Limits

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


def llama3_rope():
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    return LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=rope))


SPELLED_OUT = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama with biases": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True)),
    "llama 3": llama3_rope,
    "qwen 2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen 3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
}

OTHERS = {
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)),
    "scaled residuals": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, residual_multiplier=0.5)),
    "capped logits": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8)),
    "other modules": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)),
    "rotation by length": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0})
    ),
}


def made(recipe):
    torch.manual_seed(0)
    model = recipe().eval()
    with torch.no_grad():  # fresh models have weights of 1 and biases of 0, which would hide that they are left out
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def own_forward(model):
    return Engine(model, None, Limits(1, 1, frozenset())).forward


@torch.no_grad()
def compare(model, decoder, columns=40):
    """Largest difference of the logits of `columns` tokens a row, in rows of different length."""
    forward = own_forward(model)
    tokens = torch.randint(64, (5, 6 + columns), generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([0, 5, 2, 1, 0])
    own, direct = RowCache(model.config), RowCache(model.config)
    for cache in (own, direct):
        forward(tokens[:, :6], starts, cache)
    bias = padding_bias(starts, 6 + columns, torch.float32)
    largest = 0.0
    for column in range(6, 6 + columns):
        expected = forward(tokens[:, column, None], starts, own)
        found = decoder.logits(tokens[:, column], column - starts, direct, bias)
        largest = max(largest, float((found - expected).abs().max()))
    for mine, theirs in zip(direct.layers, own.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-4, rtol=1e-4)
    return largest


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_the_logits_are_the_models_own(name):
    model = made(SPELLED_OUT[name])
    with torch.no_grad():
        decoder = direct_decoder(model, own_forward(model))
    assert decoder is not None
    assert compare(model, decoder) < 1e-4


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_other_models_are_left_to_their_own_forward_pass(name):
    model = made(OTHERS[name])
    assert direct_decoder(model, own_forward(model)) is None


@torch.no_grad()
def test_a_model_that_computes_something_else_with_the_same_modules_is_found_out():
    model = made(SPELLED_OUT["llama"])
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: 1.1 * output)
    assert direct_decoder(model, own_forward(model)) is None


def test_adapters_and_updates_are_seen():
    model = made(SPELLED_OUT["qwen 2"])
    adapted = add_lora(model, Lora(rank=4), seed=0).eval()
    with torch.no_grad():
        decoder = direct_decoder(adapted, own_forward(adapted))
        assert decoder is not None
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    inner = adapted.get_base_model()
    assert compare(inner, decoder) < 1e-4


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9, 33])
def test_large_matrices_are_multiplied_as_any_other(rows):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(1024, 40, generator=generator)
    states = torch.randn(rows, 40, generator=generator)
    found = _project_large(weight, states)
    torch.testing.assert_close(found, states @ weight.T, atol=1e-4, rtol=1e-4)
    assert found.is_contiguous()
