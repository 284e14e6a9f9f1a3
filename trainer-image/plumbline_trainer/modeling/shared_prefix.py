"""Attention over rows in which completions share the tokens of their prompt.

Each completion sees the prompt and itself, causally, and no other completion. On a CPU the attention of every prompt
and every completion is computed by itself, so that nothing is spent on tokens that do not see each other and prompts
of different lengths need no padding. Elsewhere it is one masked attention over padded rows.

The implementation is registered with transformers under `IMPLEMENTATION` and is scaled dot-product attention wherever
no layout is given, such as in generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from plumbline_trainer.data.batches import PromptGroup, SequenceBatch, TokenSequence, pad_sequences, share_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPLEMENTATION = "plumbline_shared_prefix"
"""The value of `attn_implementation` of models that are trained."""


class PrefixLayout:
    """The prompts and completions of one row, and the masks of its completions; the same for every layer."""

    def __init__(self, groups: Sequence[PromptGroup], dtype: torch.dtype, device: torch.device) -> None:
        self.groups = groups
        self.sizes = [size for group in groups for size in (group.prompt, *group.completions)]
        """Tokens of each prompt and each completion, in the row's order."""

        self.masks = [
            _completion_mask(group.prompt, completion, dtype, device)
            for group in groups
            for completion in group.completions
        ]
        """Of each completion: [tokens, prompt + tokens], 0 where attention is allowed, else -inf."""


def model_inputs(batch: SequenceBatch, dtype: torch.dtype) -> dict[str, Any]:
    """What a transformers body needs, besides nothing, to compute `batch` with activations of `dtype`."""
    if batch.groups is None:
        return {"input_ids": batch.input_ids}
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.positions}
    device = batch.input_ids.device
    if len(batch.groups) == 1 and device.type == "cpu":
        # a mask of four dimensions keeps transformers from building one of its own; the layout replaces it
        unused = torch.zeros(1, 1, 1, 1, dtype=dtype, device=device)
        layout = PrefixLayout(batch.groups[0], dtype, device)
        return {**inputs, "attention_mask": unused, "prefix_layout": layout}
    return {**inputs, "attention_mask": visible(batch)}


def visible(batch: SequenceBatch) -> torch.Tensor:
    """[R, 1, L, L] bool: which position sees which. Padding sees itself, so that no row of a softmax is empty."""
    rows, length = batch.input_ids.shape
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.eye(length, dtype=torch.bool).repeat(rows, 1, 1)
    for row, groups in enumerate(batch.groups or ()):
        start = 0
        for group in groups:
            end = start + group.prompt
            mask[row, start:end, start:end] = causal[: group.prompt, : group.prompt]
            first = end
            for completion in group.completions:
                last = first + completion
                mask[row, first:last, start:end] = True
                mask[row, first:last, first:last] = causal[:completion, :completion]
                first = last
            start = first
    return mask[:, None].to(batch.input_ids.device)


@torch.no_grad()
def can_share_prompts(body: PreTrainedModel, longest: int) -> bool:
    """Whether completions may share the tokens of their prompt in `body`, for sequences of up to `longest` tokens.

    Answered by trying: architectures that keep a state along the row, or take positions from the row, give other
    hidden states then. A sliding window shorter than the sequences would be measured along the row too.
    """
    configuration = body.config.get_text_config()
    window = getattr(configuration, "sliding_window", None)
    if isinstance(window, int) and getattr(configuration, "use_sliding_window", True) and window < longest:
        return False
    ids = [(7 * position + 3) % configuration.vocab_size for position in range(12)]
    probes = [TokenSequence(ids[:2], ids[2:8]), TokenSequence(ids[:3], ids[3:5]), TokenSequence(ids[:2], ids[8:12])]
    apart = pad_sequences(probes, 0).to(body.device)
    shared = share_prompts(probes, 0, one_row=body.device.type == "cpu").to(body.device)
    try:
        expected, found = (
            body(**model_inputs(batch, body.dtype), use_cache=False).last_hidden_state.flatten(0, 1)[batch.source]
            for batch in (apart, shared)
        )
    except (TypeError, ValueError, RuntimeError):  # an architecture that takes no positions, masks or layouts
        return False
    tolerance = 1e-4 if body.dtype == torch.float32 else 3e-2
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    prefix_layout: PrefixLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the form of transformers' attention functions: `[1, heads, L, D]` in, `[1, L, heads, D]` out."""
    if prefix_layout is None:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    grouped = key.shape[1] != query.shape[1]
    # split and not slices: the gradient of a split is one concatenation, that of a slice a padded copy of everything
    queries, keys, values = (tensor.split(prefix_layout.sizes, dim=2) for tensor in (query, key, value))
    masks = iter(prefix_layout.masks)
    outputs: list[torch.Tensor] = []
    for group in prefix_layout.groups:
        prompt = len(outputs)
        outputs.append(
            scaled_dot_product_attention(
                queries[prompt], keys[prompt], values[prompt], is_causal=True, scale=scaling, enable_gqa=grouped
            )
        )
        for part in range(prompt + 1, prompt + 1 + len(group.completions)):
            outputs.append(
                scaled_dot_product_attention(
                    queries[part],
                    torch.cat([keys[prompt], keys[part]], dim=2),
                    torch.cat([values[prompt], values[part]], dim=2),
                    attn_mask=next(masks),
                    scale=scaling,
                    enable_gqa=grouped,
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _completion_mask(prompt: int, completion: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    mask = torch.full((completion, completion), float("-inf"), dtype=dtype, device=device).triu(1)
    return torch.cat([torch.zeros(completion, prompt, dtype=dtype, device=device), mask], dim=1)


AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
