"""How far tokens' logits lie below the largest of their position: what a dueling value function reads off a model.

Logits of all tokens never exist. Which token is likeliest is found without gradient, chunk by chunk; the difference of
two logits then needs two columns of the head. Logits are those that the model makes, whatever the temperature.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.modeling.linear_head import LOGIT_ELEMENTS
from plumbline_trainer.modeling.logprobs import (
    causal_model,
    laid_out,
    logit_scale,
    logits_function,
    predicting_states,
)
from plumbline_trainer.modeling.reference import Reference
from plumbline_trainer.modeling.token_divergence import positions_at_once, token_statistic


@torch.no_grad()
def reference_greedy_tokens(
    reference: Reference, batch: SequenceBatch, *, logit_elements: int = LOGIT_ELEMENTS
) -> torch.Tensor:
    """[B, T] int64: the token that the reference finds likeliest in place of every completion token, 0 elsewhere."""
    with reference.in_place():
        states = predicting_states(reference.model, batch)
        return laid_out(greedy_tokens(reference.model, states, logit_elements), batch.mask)


def greedy_tokens(model: nn.Module, states: torch.Tensor, logit_elements: int = LOGIT_ELEMENTS) -> torch.Tensor:
    """[N] int64, without gradient: the token with the largest logit after each of the hidden states `states` [N, H]."""
    return token_statistic(model, states, partial(torch.argmax, dim=-1), logit_elements)


def logit_gaps(
    model: nn.Module,
    states: torch.Tensor,
    tokens: torch.Tensor,
    largest: torch.Tensor,
    logit_elements: int = LOGIT_ELEMENTS,
) -> torch.Tensor:
    """[N] float32 with gradient: the logit of each of `tokens` [N] less that of `largest` [N], the `greedy_tokens`."""
    head = causal_model(model).get_output_embeddings()
    scale, softcap = logit_scale(model)
    if type(head) is nn.Linear and softcap is None:
        columns = head.weight[tokens].float() - head.weight[largest].float()
        gaps = torch.einsum("nh,nh->n", states.float(), columns)
        if head.bias is not None:
            gaps = gaps + head.bias[tokens].float() - head.bias[largest].float()
        return scale * gaps
    logits_of = logits_function(model)

    def difference(some: torch.Tensor, ids: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        logits = logits_of(some).float()
        return (logits.gather(1, ids[:, None]) - logits.gather(1, top[:, None])).squeeze(1)

    chunk = positions_at_once(model, logit_elements)
    recompute = torch.is_grad_enabled() and states.shape[0] > chunk
    return torch.cat(
        [
            checkpoint(difference, *part, use_reentrant=False) if recompute else difference(*part)
            for part in zip(states.split(chunk), tokens.split(chunk), largest.split(chunk), strict=True)
        ]
    )
