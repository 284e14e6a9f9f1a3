"""What follows from all logits at the positions that predict completion tokens, and not from one token's alone.

The divergence between two models over the vocabulary, and statistics such as the probability of the likeliest token.
Logits are made for a chunk of positions at a time, never for all of them; with gradients on, each chunk is made again
in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.modeling.linear_head import LOGIT_ELEMENTS
from plumbline_trainer.modeling.logprobs import (
    causal_model,
    laid_out,
    logits_function,
    predicting_states,
)
from plumbline_trainer.modeling.reference import Reference

LOGITS_AT_ONCE = 4
"""Tensors of a chunk's size that are alive together: the logits of both models and their log-probabilities."""


def completion_kl(
    policy: nn.Module,
    reference: Reference,
    states: torch.Tensor,
    batch: SequenceBatch,
    *,
    logit_elements: int = LOGIT_ELEMENTS,
) -> torch.Tensor:
    """[B, T] float32: KL(pi_ref(.|x, y_<t) || pi(.|x, y_<t)) over the vocabulary, at every completion token of `batch`.

    `states` `[N, H]` are the policy's `predicting_states` of `batch`, which also give the log-probabilities of tokens;
    those of the reference are computed here. 0 where `batch.mask` is false. The gradient goes through the policy alone.
    Both models have the same vocabulary (see `open_reference`). With an adapter the reference may be the policy itself.
    """
    with torch.no_grad(), reference.in_place():
        reference_states = predicting_states(reference.model, batch)
    return laid_out(token_kl(policy, reference, states, reference_states, logit_elements), batch.mask)


def token_kl(
    policy: nn.Module,
    reference: Reference,
    states: torch.Tensor,
    reference_states: torch.Tensor,
    logit_elements: int = LOGIT_ELEMENTS,
) -> torch.Tensor:
    """[N] float32: KL(pi_ref || pi) over the vocabulary after hidden states `[N, H]` of the policy and `[N, H']` of the
    reference. At most about `logit_elements` logits and log-probabilities exist at a time."""
    logits_of, reference_logits_of = logits_function(policy), logits_function(reference.model)

    def divergence(some: torch.Tensor, of_reference: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), reference.in_place():
            expected = reference_logits_of(of_reference).float().log_softmax(-1)
        logprobs = logits_of(some).float().log_softmax(-1)
        return (expected.exp() * (expected - logprobs)).sum(-1)

    chunk = positions_at_once(policy, logit_elements)
    parts = []
    for some, of_reference in zip(states.split(chunk), reference_states.split(chunk), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(divergence, some, of_reference, use_reentrant=False))
        else:
            parts.append(divergence(some, of_reference))
    return torch.cat(parts)


@torch.no_grad()
def token_statistic(
    model: nn.Module,
    states: torch.Tensor,
    statistic: Callable[[torch.Tensor], torch.Tensor],
    logit_elements: int = LOGIT_ELEMENTS,
) -> torch.Tensor:
    """[N], without gradient: `statistic` `[n, V]` -> `[n]` of the float32 logits after hidden states `[N, H]`."""
    logits_of = logits_function(model)
    return torch.cat(
        [statistic(logits_of(some).float()) for some in states.split(positions_at_once(model, logit_elements))]
    )


def positions_at_once(model: nn.Module, logit_elements: int) -> int:
    """Positions whose logits are made together."""
    vocabulary: int = causal_model(model).get_output_embeddings().weight.shape[0]
    return max(16, logit_elements // (LOGITS_AT_ONCE * vocabulary))
