"""Log-probabilities of completion tokens, and of nothing else.

The transformer body runs over whole rows; the language-model head only sees the hidden states that predict a
completion token, and never makes all their logits at once: the `[B, L, V]` logits of a naive forward pass, and their
gradient, never exist.
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
from plumbline_trainer.modeling.linear_head import LOGIT_ELEMENTS, LinearHeadLogprobs
from plumbline_trainer.modeling.shared_prefix import model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    states = predicting_states(model, batch)
    scored = token_logprobs(model, states, batch.targets[batch.mask], temperature, logit_elements)
    return CompletionLogprobs(laid_out(scored, batch.mask), batch.mask)


def laid_out(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, T]: the [N] `values` of completion tokens where `mask` [B, T] is true, 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def token_logprobs(
    model: nn.Module, states: torch.Tensor, targets: torch.Tensor, temperature: float, logit_elements: int
) -> torch.Tensor:
    """[N] float32: log-probability of each of `targets` [N] after the hidden states `states` [N, H]."""
    head = causal_model(model).get_output_embeddings()
    scale, softcap = logit_scale(model)
    kept = logit_elements if torch.is_grad_enabled() else 0
    if type(head) is nn.Linear and softcap is None:
        scored: torch.Tensor = LinearHeadLogprobs.apply(
            states.to(head.weight.dtype), head.weight, head.bias, targets, scale / temperature, kept
        )
        return scored
    return _chunked_logprobs(logits_function(model), states, targets, temperature, head.weight.shape[0], logit_elements)


def _chunked_logprobs(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    states: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    vocabulary: int,
    logit_elements: int,
) -> torch.Tensor:
    """As `token_logprobs`, for heads that are more than one matrix (an adapter on the head, capped logits): chunks of
    tokens, each of which makes its logits again in the backward pass."""

    def score(states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = logits_of(states).float() / temperature
        return logits.gather(1, ids[:, None]).squeeze(1) - torch.logsumexp(logits, dim=1)

    chunk = max(16, logit_elements // (2 * vocabulary))
    recompute = torch.is_grad_enabled() and states.shape[0] > chunk
    parts = []
    for some, ids in zip(states.split(chunk), targets.split(chunk), strict=True):
        parts.append(checkpoint(score, some, ids, use_reentrant=False) if recompute else score(some, ids))
    return torch.cat(parts)


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a peft wrapper, or the model itself."""
    inner: PreTrainedModel = without_adapter(model)
    return inner


def predicting_states(model: nn.Module, batch: SequenceBatch) -> torch.Tensor:
    """[N, H]: the hidden states that predict the N completion tokens."""
    body = causal_model(model).get_decoder()
    states = body(**model_inputs(batch, body.dtype), use_cache=False).last_hidden_state
    return states.flatten(0, 1).index_select(0, batch.source)


def logits_function(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The map from hidden states `[..., H]` to logits `[..., V]`: the head and what the architecture adds to it.

    Known additions: `final_logit_softcapping` c (Gemma: c * tanh(logits / c)), `logit_scale` (Cohere: multiplied) and
    `logits_scaling` (Granite: divided). `check_head` refuses models whose logits are made otherwise.
    """
    head = causal_model(model).get_output_embeddings()
    scale, softcap = logit_scale(model)

    def logits_of(states: torch.Tensor) -> torch.Tensor:
        logits = head(states)
        if scale != 1.0:
            logits = logits * scale
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return logits

    return logits_of


def logit_scale(model: nn.Module) -> tuple[float, float | None]:
    """The factor and the cap that the architecture applies to the head's outputs."""
    configuration = causal_model(model).config.get_text_config()
    factor = getattr(configuration, "logit_scale", None) or 1.0
    divisor = getattr(configuration, "logits_scaling", None) or 1.0
    return float(factor) / float(divisor), getattr(configuration, "final_logit_softcapping", None)


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
    difference = _difference_from_own_logits(model)
    if difference > (1e-3 if inner.dtype == torch.float32 else 1e-1):
        raise ModelError(
            f"{name} makes its logits in a way that is not supported: its log-probabilities differ by {difference:.3g}"
        )


def _probes(vocabulary: int) -> list[TokenSequence]:
    """A few short sequences, two of which have the same prompt."""
    ids = [(7 * position + 3) % vocabulary for position in range(12)]
    return [TokenSequence(ids[:2], ids[2:8]), TokenSequence(ids[:3], ids[3:5]), TokenSequence(ids[:2], ids[8:12])]


def _difference_from_own_logits(model: nn.Module) -> float:
    """The largest difference of log-probabilities of `_probes` from those of the model's own forward pass."""
    inner = causal_model(model)
    device = next(model.parameters()).device
    batch = pad_sequences(_probes(inner.get_output_embeddings().weight.shape[0]), 0).to(device)
    values, mask = completion_logprobs(model, batch)
    logits = inner(input_ids=batch.input_ids, use_cache=False).logits.float().flatten(0, 1)
    expected = logits.log_softmax(-1)[batch.source].gather(1, batch.targets[mask][:, None]).squeeze(1)
    return float((values[mask] - expected).abs().max())
