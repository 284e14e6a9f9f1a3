"""Log-probabilities of completion tokens, and of nothing else.

The transformer body runs over whole rows; the language-model head only sees the hidden states that predict a
completion token, in chunks, so the `[B, L, V]` logits of a naive forward pass never exist. With gradients on, chunks
beyond the first memory budget recompute their logits in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from plumbline_trainer.data.batches import SequenceBatch, TokenSequence, pad_sequences
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.adapters import without_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGIT_ELEMENTS = 2**24
"""Logits held at a time: 64 MiB in float32. Fewer in all are kept for the backward pass, more are recomputed."""


class CompletionLogprobs(NamedTuple):
    """Log-probabilities of each sequence's completion tokens."""

    values: torch.Tensor
    """[B, T] float32; 0 where `mask` is false."""

    mask: torch.Tensor
    """[B, T] bool: true at completion tokens."""

    @property
    def sums(self) -> torch.Tensor:
        """[B]: log-probability of each whole completion."""
        return self.values.sum(dim=1)

    @property
    def counts(self) -> torch.Tensor:
        """[B] float32: completion tokens of each sequence."""
        return self.mask.sum(dim=1).to(torch.float32)


def completion_logprobs(
    model: nn.Module, batch: SequenceBatch, *, temperature: float = 1.0, logit_elements: int = LOGIT_ELEMENTS
) -> CompletionLogprobs:
    """log pi(y_t | x, y_<t) at `temperature`, for every completion token of `batch` (on the model's device).

    `model` is a causal language model of transformers or a peft wrapper around one. Values and gradients equal those
    of a log-softmax over the full float32 logits divided by `temperature`.
    """
    hidden = _predicting_states(model, batch)
    targets = batch.targets[batch.mask]
    head = logits_function(model)
    vocabulary = causal_model(model).get_output_embeddings().weight.shape[0]
    chunk = max(16, logit_elements // vocabulary)

    def score(states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = head(states).float()
        if temperature != 1.0:
            logits = logits / temperature
        return logits.gather(1, ids[:, None]).squeeze(1) - torch.logsumexp(logits, dim=1)

    recompute = torch.is_grad_enabled() and hidden.shape[0] > chunk
    parts = []
    for states, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        parts.append(checkpoint(score, states, ids, use_reentrant=False) if recompute else score(states, ids))
    values = torch.zeros(batch.mask.shape, dtype=torch.float32, device=hidden.device)
    return CompletionLogprobs(values.masked_scatter(batch.mask, torch.cat(parts)), batch.mask)


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a peft wrapper, or the model itself."""
    inner: PreTrainedModel = without_adapter(model)
    return inner


def _predicting_states(model: nn.Module, batch: SequenceBatch) -> torch.Tensor:
    """[N, H]: the hidden states that predict the N completion tokens."""
    body = causal_model(model).get_decoder()
    states = body(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    return states.flatten(0, 1).index_select(0, batch.source)


def logits_function(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The map from hidden states `[..., H]` to logits `[..., V]`: the head and what the architecture adds to it.

    Known additions: `final_logit_softcapping` c (Gemma: c * tanh(logits / c)), `logit_scale` (Cohere: multiplied) and
    `logits_scaling` (Granite: divided). `check_head` refuses models whose logits are made otherwise.
    """
    inner = causal_model(model)
    head = inner.get_output_embeddings()
    configuration = inner.config.get_text_config()
    softcap = getattr(configuration, "final_logit_softcapping", None)
    factor = getattr(configuration, "logit_scale", None)
    divisor = getattr(configuration, "logits_scaling", None)

    def logits_of(states: torch.Tensor) -> torch.Tensor:
        logits = head(states)
        if factor is not None:
            logits = logits * factor
        if divisor is not None:
            logits = logits / divisor
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return logits

    return logits_of


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """Compares `completion_logprobs` with the model's own logits on a few tokens; refuses the model if they differ.

    Architectures may scale, cap or route logits in their own ways; a wrong guess would train silently on the wrong
    probabilities. Raises `ModelError`.
    """
    inner = causal_model(model)
    name = type(inner).__name__
    if not callable(getattr(inner, "get_decoder", None)) or inner.get_output_embeddings() is None:
        raise ModelError(f"{name} has no separate decoder and head: it cannot be trained")
    vocabulary = inner.get_output_embeddings().weight.shape[0]
    ids = [(7 * position + 3) % vocabulary for position in range(8)]
    device = next(model.parameters()).device
    batch = pad_sequences([TokenSequence(ids[:2], ids[2:]), TokenSequence(ids[:3], ids[3:5])], 0).to(device)
    values, mask = completion_logprobs(model, batch)
    logits = inner(input_ids=batch.input_ids, use_cache=False).logits.float().flatten(0, 1)
    expected = logits.log_softmax(-1)[batch.source].gather(1, batch.targets[mask][:, None]).squeeze(1)
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    if not torch.allclose(values[mask], expected, rtol=tolerance, atol=tolerance):
        difference = float((values[mask] - expected).abs().max())
        raise ModelError(
            f"{name} makes its logits in a way that is not supported: its log-probabilities differ by {difference:.3g}"
        )
