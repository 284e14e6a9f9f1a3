"""Reward models: a scalar head on the last token's hidden state, in the layout that transformers can load again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.data.order import derive_seed
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.loading import load_model, resolve_directory, select_dtype
from plumbline_trainer.modeling.logprobs import causal_model
from plumbline_trainer.modeling.shared_prefix import model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "score"
"""Name of the head in the sequence-classification models of transformers."""


def load_reward_model(
    location: str,
    *,
    pad_token_id: int,
    seed: int,
    dtype: str = "auto",
    device: torch.device,
    activation_checkpointing: bool = False,
) -> PreTrainedModel:
    """The model at `location` (directory or URI) with a scalar head: its own if it is a reward model already, else a
    new one that depends on `seed` alone.

    `pad_token_id` goes into the configuration: transformers' own forward pass needs it to find the last token.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "scalar head"))
        model = load_model(
            resolve_directory(location),
            dtype=select_dtype(dtype, device),
            device=device,
            activation_checkpointing=activation_checkpointing,
            model_class=AutoModelForSequenceClassification,
            may_be_new=(f"{HEAD}.",),
            num_labels=1,
            pad_token_id=pad_token_id,
        )
    if not isinstance(getattr(model, HEAD, None), nn.Module):
        raise ModelError(f"{type(model).__name__} has no `{HEAD}` head: it cannot be trained as a reward model")
    return model


def sequence_scores(model: nn.Module, batch: SequenceBatch) -> torch.Tensor:
    """The scalar score of each sequence of `batch`, `[B]` float32.

    Scores are read where transformers' own forward pass reads them, at the last token that is not the padding token,
    so that the exported model gives the same scores. Only those states go through the head.
    """
    inner = causal_model(model)
    body = getattr(inner, inner.base_model_prefix)
    states = body(**model_inputs(batch, body.dtype), use_cache=False).last_hidden_state
    return getattr(inner, HEAD)(states.flatten(0, 1).index_select(0, batch.ends)).squeeze(-1).float()
