"""Values of states: a head on the policy's own hidden states, or a model with a scalar head of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.data.order import derive_seed
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.loading import load_configuration, load_model, resolve_directory, select_dtype
from plumbline_trainer.modeling.logprobs import causal_model
from plumbline_trainer.modeling.reward_head import HEAD
from plumbline_trainer.modeling.shared_prefix import model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def new_value_head(policy: nn.Module, outputs: int) -> nn.Linear:
    """A linear layer from the hidden states of `policy` to `outputs` numbers, float32, all zero.

    Zero gives every state the same value to start with, that of a critic that knows nothing, and has a gradient.
    """
    hidden = causal_model(policy).config.get_text_config().hidden_size
    head = nn.utils.skip_init(nn.Linear, hidden, outputs, device=next(policy.parameters()).device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def load_value_model(
    location: str,
    outputs: int,
    *,
    pad_token_id: int,
    seed: int,
    dtype: str = "auto",
    device: torch.device,
    frozen: bool = False,
    activation_checkpointing: bool = False,
) -> PreTrainedModel:
    """The model at `location` (directory or URI) with a head of `outputs` numbers.

    In the layout of transformers' sequence classification, so that a reward model can be the start. A model without a
    head gets one that depends on `seed` alone; a `frozen` one must have it, as what it says would mean nothing. Raises
    `ModelError`.
    """
    directory = resolve_directory(location)
    _check_outputs(directory, outputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "value head"))
        model = load_model(
            directory,
            dtype=select_dtype(dtype, device),
            device=device,
            activation_checkpointing=activation_checkpointing and not frozen,
            model_class=AutoModelForSequenceClassification,
            may_be_new=() if frozen else (f"{HEAD}.",),
            num_labels=outputs,
            pad_token_id=pad_token_id,
        )
    if not isinstance(getattr(model, HEAD, None), nn.Module):
        raise ModelError(f"{type(model).__name__} has no `{HEAD}` head: it cannot be a critic")
    return model.requires_grad_(False).eval() if frozen else model


def _check_outputs(directory: Path, outputs: int) -> None:
    """Raises `ModelError` where the directory holds a head with another number of outputs."""
    configuration = load_configuration(directory)
    has_head = any(name.endswith("ForSequenceClassification") for name in configuration.architectures or ())
    if has_head and configuration.num_labels != outputs:
        raise ModelError(
            f"model directory {directory}: its head has {configuration.num_labels} outputs, the critic's loss needs "
            f"{outputs}"
        )


def value_outputs(model: nn.Module, batch: SequenceBatch) -> torch.Tensor:
    """[N, O] float32: what a value model says in the states that predict the N completion tokens of `batch`.

    These are the states before each token, the prompt's last one for the first. Sequences may share their prompt.
    """
    inner = causal_model(model)
    body = getattr(inner, inner.base_model_prefix)
    states = body(**model_inputs(batch, body.dtype), use_cache=False).last_hidden_state
    outputs: torch.Tensor = getattr(inner, HEAD)(states.flatten(0, 1).index_select(0, batch.source))
    return outputs.float()
