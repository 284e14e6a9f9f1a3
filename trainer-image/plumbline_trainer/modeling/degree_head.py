"""A small head that tells how much was removed from a completion: trained with the model, dropped from the result."""

from __future__ import annotations

import torch
from torch import nn

from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.data.seeds import derive_seed
from plumbline_trainer.modeling.logprobs import causal_model
from plumbline_trainer.modeling.shared_prefix import model_inputs

DEGREE_HEAD = "preference_degree_head"
"""Name of the head within the transformers model, and so the start of its parameters' names."""


def attach_degree_head(model: nn.Module, levels: int, *, seed: int) -> None:
    """Adds a linear layer from hidden states to `levels` logits to a causal language model or a peft wrapper around it.

    The head is a part of the model: optimizer and checkpoints find its parameters as they find all others. It is
    float32 whatever the model's dtype, and its start depends on `seed` alone. An adapter has to be there before, or
    else it would adapt or freeze the head. Raises `ValueError` where there is a head already.
    """
    inner = causal_model(model)
    if hasattr(inner, DEGREE_HEAD):
        raise ValueError(f"{type(inner).__name__} has a degree head already")
    configuration = inner.config.get_text_config()
    head = nn.utils.skip_init(nn.Linear, configuration.hidden_size, levels)
    generator = torch.Generator().manual_seed(derive_seed(seed, "degree head"))
    with torch.no_grad():
        # of the size of a hidden state's projection on a unit vector, so that first logits are of order one
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / configuration.hidden_size**0.5)
        head.bias.zero_()
    inner.add_module(DEGREE_HEAD, head.to(next(model.parameters()).device))


def detach_degree_head(model: nn.Module) -> None:
    """Removes the head where there is one: before and after, the language model is the same."""
    inner = causal_model(model)
    if hasattr(inner, DEGREE_HEAD):
        delattr(inner, DEGREE_HEAD)


def degree_logits(model: nn.Module, batch: SequenceBatch) -> torch.Tensor:
    """[B, levels] float32, with gradient: what the head says after the last token of each sequence of `batch`.

    Sequences may share their prompt. Raises `ValueError` where no head is attached.
    """
    inner = causal_model(model)
    head = getattr(inner, DEGREE_HEAD, None)
    if head is None:
        raise ValueError(f"{type(inner).__name__} has no degree head")
    body = inner.get_decoder()
    states = body(**model_inputs(batch, body.dtype), use_cache=False).last_hidden_state
    logits: torch.Tensor = head(states.flatten(0, 1).index_select(0, batch.ends).float())
    return logits
