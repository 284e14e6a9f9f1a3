"""The entropy of the policy's next-token distributions at the tokens of completions, with its gradient.

It comes with the log-probabilities of the tokens, out of the same pass over the vocabulary. All logits of a batch never
exist: a linear head is worked through in blocks of the vocabulary, any other in chunks of tokens.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.modeling.linear_head import LOGIT_ELEMENTS, LinearHeadEntropy
from plumbline_trainer.modeling.logprobs import (
    CompletionLogprobs,
    causal_model,
    laid_out,
    logit_scale,
    logits_function,
    predicting_states,
)

LOGITS_AT_ONCE = 4
"""Tensors of a chunk's size that are alive together: logits, log-probabilities, probabilities and a product."""


def completion_logprobs_and_entropy(
    model: nn.Module, batch: SequenceBatch, *, temperature: float = 1.0, logit_elements: int = LOGIT_ELEMENTS
) -> tuple[CompletionLogprobs, torch.Tensor]:
    """`completion_logprobs` of `batch`, and [B, T] float32 the entropy of the distribution that each token is drawn
    from: at `temperature`, over the whole vocabulary, in nats; 0 where no completion token is."""
    states = predicting_states(model, batch)
    targets = batch.targets[batch.mask]
    logprobs, entropies = token_logprobs_and_entropy(model, states, targets, temperature, logit_elements)
    return CompletionLogprobs(laid_out(logprobs, batch.mask), batch.mask), laid_out(entropies, batch.mask)


def token_logprobs_and_entropy(
    model: nn.Module,
    states: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    logit_elements: int = LOGIT_ELEMENTS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two [N] float32 after hidden states `states` [N, H]: the log-probability of each of `targets` [N], and the
    entropy of the distribution."""
    head = causal_model(model).get_output_embeddings()
    scale, softcap = logit_scale(model)
    if type(head) is nn.Linear and softcap is None:
        kept = logit_elements if torch.is_grad_enabled() else 0
        both: tuple[torch.Tensor, torch.Tensor] = LinearHeadEntropy.apply(
            states.to(head.weight.dtype), head.weight, head.bias, targets, scale / temperature, kept
        )
        return both
    logits_of = logits_function(model)

    def score(some: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = (logits_of(some).float() / temperature).log_softmax(-1)
        return logprobs.gather(1, ids[:, None]).squeeze(1), -(logprobs.exp() * logprobs).sum(-1)

    chunk = max(16, logit_elements // (LOGITS_AT_ONCE * head.weight.shape[0]))
    recompute = torch.is_grad_enabled() and states.shape[0] > chunk
    parts = [
        checkpoint(score, some, ids, use_reentrant=False) if recompute else score(some, ids)
        for some, ids in zip(states.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropy for _, entropy in parts])
