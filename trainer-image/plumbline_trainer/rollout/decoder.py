"""One new token a row through a decoder of the Llama family, with a fraction of the calls of its own forward pass.

The forward pass of `transformers` serves every use: per token it builds masks and positions and passes through many
small modules, which on a CPU costs as much as the arithmetic of a small model. Llama, Qwen2, Qwen3, Mistral and others
compute the same few operations, which are spelled out here on the model's own weights, so that nothing is copied and
every update is seen. Linear modules that are more than a matrix, such as those with an adapter, are called as they are.

Whether a model is of that kind is asked twice: by its modules and settings, and by comparing logits (`direct_decoder`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from plumbline_trainer.modeling.logprobs import causal_model
from plumbline_trainer.rollout.cache import GrowingLayer, RowCache

_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_FIXED_ROTATIONS = {"default", "linear", "llama3", "yarn"}
"""Rotary embeddings whose angles depend on the position alone, and not on the longest sequence so far."""

_FEW_ROWS = range(2, 9)
_BLOCK = 128
_LARGE_MATRIX = 1 << 20
"""Matrices of so many elements, which are heads, are multiplied in one of the ways of `_project_large`."""

_TOLERANCES = {torch.float32: 1e-4}
_TOLERANCE = 3e-2


class DirectDecoder:
    """Decoder and head of a causal language model, for rows of one token.

    Make it with `direct_decoder`. The weights are read from the model at every call.
    """

    def __init__(self, model: nn.Module) -> None:
        inner: Any = causal_model(model)
        body = inner.get_decoder()
        self._embed: nn.Module = body.get_input_embeddings()
        self._layers = [_Layer(layer) for layer in body.layers]
        self._norm = _Norm(body.norm)
        self._rotary = body.rotary_emb
        self._head: nn.Module = inner.get_output_embeddings()
        self._cosines = self._sines = torch.zeros(0, 0)

    def logits(self, tokens: Tensor, positions: Tensor, cache: RowCache, bias: Tensor | None) -> Tensor:
        """The logits [B, V] after `tokens`; the rest as in `states`."""
        return self.logits_of(self.states(tokens, positions, cache, bias))

    def logits_of(self, states: Tensor) -> Tensor:
        """The logits [B, V] of hidden states [B, H]."""
        return _project(self._head, states)

    def states(self, tokens: Tensor, positions: Tensor, cache: RowCache, bias: Tensor | None) -> Tensor:
        """The hidden states [B, H] after `tokens` [B] at `positions` [B], whose keys and values are added to `cache`.

        `bias` [B, 1, 1, columns] is 0 where a row has a column and -inf where it has padding, with at least the
        columns of the cache after the call; None where no row has padding.
        """
        columns = cache.length + 1
        if bias is not None:
            bias = bias[..., :columns]
        states = self._embed(tokens)
        if self._cosines.shape[0] < columns:
            self._make_angles(states, 2 * columns)
        cosines, sines = self._cosines[positions][:, None], self._sines[positions][:, None]
        for layer, stored in zip(self._layers, cache.layers, strict=True):
            states = layer(states, cosines, sines, stored, bias)
        return self._norm(states)

    def _make_angles(self, states: Tensor, count: int) -> None:
        """Tables [count, width]; the sines have the signs of `rotate_half`, so that a roll of the halves rotates."""
        positions = torch.arange(count, device=states.device)
        cosines, sines = self._rotary(states[None, :1], positions[None])
        half = sines.shape[-1] // 2
        self._cosines = cosines[0]
        self._sines = torch.cat([-sines[0, :, :half], sines[0, :, half:]], dim=-1)


class _Layer:
    """One layer: its modules by what they do."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._queries, self._keys, self._values = attention.q_proj, attention.k_proj, attention.v_proj
        self._output = attention.o_proj
        self._width: int = attention.head_dim
        self._scale: float = attention.scaling
        self._query_norm = _Norm(attention.q_norm) if hasattr(attention, "q_norm") else None
        self._key_norm = _Norm(attention.k_norm) if hasattr(attention, "k_norm") else None
        self._before_attention = _Norm(layer.input_layernorm)
        self._before_mlp = _Norm(layer.post_attention_layernorm)
        self._gate, self._up, self._down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self._activation: Callable[[Tensor], Tensor] = mlp.act_fn

    def __call__(
        self, states: Tensor, cosines: Tensor, sines: Tensor, stored: GrowingLayer, bias: Tensor | None
    ) -> Tensor:
        rows, width = states.shape[0], self._width
        normed = self._before_attention(states)
        queries = _project(self._queries, normed).view(rows, -1, width)
        keys = _project(self._keys, normed).view(rows, -1, width)
        values = _project(self._values, normed).view(rows, -1, 1, width)
        if self._query_norm is not None and self._key_norm is not None:
            queries, keys = self._query_norm(queries), self._key_norm(keys)
        heads, shared = queries.shape[1], keys.shape[1]
        both = torch.cat([queries, keys], dim=1)
        both = torch.addcmul(both * cosines, both.roll(width // 2, dims=-1), sines)
        all_keys, all_values = stored.update(both[:, heads:, None], values)
        # heads that share their keys stand as rows of one attention, which so needs no copies of the keys
        attended = scaled_dot_product_attention(
            both[:, :heads].view(rows, shared, heads // shared, width),
            all_keys,
            all_values,
            attn_mask=bias,
            scale=self._scale,
        )
        states = states + _project(self._output, attended.reshape(rows, heads * width))
        normed = self._before_mlp(states)
        gated = self._activation(_project(self._gate, normed)).mul_(_project(self._up, normed))
        return states + _project(self._down, gated)


class _Norm:
    """Root mean square normalisation with the module's weights."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._epsilon: float = module.variance_epsilon

    def __call__(self, states: Tensor) -> Tensor:
        weight = self._module.weight
        return rms_norm(states, (weight.shape[0],), weight, self._epsilon)


def _project(module: nn.Module, states: Tensor) -> Tensor:
    """[B, out] from [B, in]."""
    if type(module) is not nn.Linear:
        projected: Tensor = module(states)
        return projected
    weight = module.weight
    if weight.device.type != "cpu" or weight.numel() < _LARGE_MATRIX or weight.shape[0] % _BLOCK:
        return linear(states, weight, module.bias)
    found = _project_large(weight, states)
    return found if module.bias is None else found.add_(module.bias)


def _project_large(weight: Tensor, states: Tensor) -> Tensor:
    """`states @ weight.T` for few rows on a CPU.

    The library that multiplies matrices rearranges all of a large matrix before it begins, which costs as much as
    multiplying by a dozen rows, and does so on one thread. Blocks of the vocabulary avoid that, and for a handful of
    rows so does the product the other way around: measured on 32 000 x 256, 1.3 to 2.5 times faster.
    """
    rows, width = states.shape
    if rows in _FEW_ROWS:
        return (weight @ states.T).T.contiguous()
    blocks = weight.view(-1, _BLOCK, width)
    if rows == 1:
        return torch.bmm(blocks, states.T.expand(len(blocks), width, 1)).view(1, -1)
    found = torch.bmm(states.expand(len(blocks), rows, width), blocks.transpose(1, 2))
    return found.transpose(0, 1).reshape(rows, -1)


def direct_decoder(model: nn.Module, logits_of: Callable[[Tensor, Tensor, RowCache], Tensor]) -> DirectDecoder | None:
    """A decoder for `model`, or None where the model computes something else than is spelled out here.

    `logits_of(tokens [B, T], starts [B], cache)` is the model's own forward pass, which is compared on a few tokens.
    """
    if not _is_spelled_out(model):
        return None
    decoder = DirectDecoder(model)
    return decoder if _agrees(decoder, model, logits_of) else None


def _is_spelled_out(model: nn.Module) -> bool:
    inner: Any = causal_model(model)
    config = inner.config
    if any(
        getattr(config, name, None) for name in ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale")
    ):
        return False
    if getattr(config, "logits_scaling", 1.0) not in (None, 1, 1.0):
        return False
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return False
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return False
    body: Any = inner.get_decoder() if callable(getattr(inner, "get_decoder", None)) else None
    if not all(hasattr(body, name) for name in ("layers", "norm", "rotary_emb")):
        return False
    if getattr(body.rotary_emb, "rope_type", None) not in _FIXED_ROTATIONS:
        return False
    return _is_norm(body.norm) and all(_is_known_layer(layer) for layer in body.layers)


def _is_known_layer(layer: Any) -> bool:
    if _parts(layer) != _LAYER_PARTS or _parts(layer.mlp) != _MLP_PARTS:
        return False
    attention = layer.self_attn
    if _parts(attention) not in (_ATTENTION_PARTS, _ATTENTION_PARTS | _HEAD_NORMS):
        return False
    if not (hasattr(attention, "head_dim") and hasattr(attention, "scaling")):
        return False
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    return all(_is_norm(norm) for norm in (*norms, *(getattr(attention, name, norms[0]) for name in _HEAD_NORMS)))


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_norm(module: Any) -> bool:
    return hasattr(module, "variance_epsilon") and getattr(module, "weight", torch.zeros(0, 0)).dim() == 1


def _agrees(decoder: DirectDecoder, model: nn.Module, logits_of: Callable[[Tensor, Tensor, RowCache], Tensor]) -> bool:
    """Compares the logits of two tokens after prompts of two lengths."""
    inner: Any = causal_model(model)
    device = next(model.parameters()).device
    vocabulary = inner.get_output_embeddings().weight.shape[0]
    tokens = torch.arange(3, 27, device=device).view(3, 8) * 7 % vocabulary
    starts = torch.tensor([0, 3, 0], device=device)
    own, direct = RowCache(inner.config), RowCache(inner.config)
    for cache in (own, direct):
        logits_of(tokens[:, :6], starts, cache)
    bias = padding_bias(starts, 8, next(model.parameters()).dtype)
    for column in (6, 7):
        expected = logits_of(tokens[:, column, None], starts, own)
        try:
            found = decoder.logits(tokens[:, column], column - starts, direct, bias)
        except (RuntimeError, ValueError):  # shapes that the modules' names did not tell of
            return False
        tolerance = _TOLERANCES.get(expected.dtype, _TOLERANCE)
        if not bool((found - expected).abs().max() <= tolerance * expected.abs().max()):
            return False
    return True


def padding_bias(starts: Tensor, columns: int, dtype: torch.dtype) -> Tensor | None:
    """[B, 1, 1, columns]: -inf before the first real column `starts` [B] of a row, else 0; None without padding."""
    if not bool(starts.any()):
        return None
    padding = torch.arange(columns, device=starts.device) < starts[:, None]
    bias = torch.zeros(padding.shape, dtype=dtype, device=starts.device)
    return bias.masked_fill_(padding, float("-inf"))[:, None, None]
