"""The reference: log-probabilities under the model as it was, under another one, or under one that follows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plumbline_api.contract import TrainerConfig
from plumbline_api.sources import ReferenceUpdate
from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.adapters import adapter_off, add_lora, has_adapter
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import CompletionLogprobs, causal_model, check_head, completion_logprobs
from plumbline_trainer.modeling.moving_reference import MovingReference


@dataclass(frozen=True)
class Reference:
    """A model that is only asked for log-probabilities; with an adapter it is the policy with the adapter off."""

    model: nn.Module
    own_adapter: bool = False
    """Whether an adapter of the model is the reference's own, and stays on."""

    @torch.no_grad()
    def completion_logprobs(self, batch: SequenceBatch, *, temperature: float = 1.0) -> CompletionLogprobs:
        """As `modeling.logprobs.completion_logprobs`, without gradients."""
        with self.in_place():
            return completion_logprobs(self.model, batch, temperature=temperature)

    def in_place(self) -> AbstractContextManager[None]:
        """Within it `model` computes what the reference does."""
        return adapter_off(self.model) if has_adapter(self.model) and not self.own_adapter else nullcontext()


def open_reference(config: TrainerConfig, policy: nn.Module) -> Reference:
    """The job's reference, independent of later updates of `policy`.

    In this order: the model of `spec.reference`; the policy with its adapter off; a frozen copy of the model that
    the run started from, read again from its directory, so that a resumed run gets the same one. Raises `ModelError`
    when the vocabulary of `spec.reference` is not the policy's: token probabilities would not correspond.
    """
    if config.paths.reference is None and has_adapter(policy):
        return Reference(policy)
    return Reference(_model_of_its_own(config, policy).requires_grad_(False).eval())


def open_moving_reference(
    config: TrainerConfig, policy: nn.Module, update: ReferenceUpdate, seed: int
) -> MovingReference:
    """A reference that begins as the job's reference and follows `policy`, with an adapter where the policy has one.

    An adapter begins as the policy's did, by `seed` and at zero effect. Raises `ModelError` as `open_reference` does,
    and where what is trained is not in the reference.
    """
    model = _model_of_its_own(config, policy)
    if config.spec.peft is not None:
        model = add_lora(model, config.spec.peft.value, seed=seed)
    own = {name: value.shape for name, value in model.named_parameters()}
    for name, value in policy.named_parameters():
        if value.requires_grad and own.get(name) != value.shape:
            raise ModelError(
                f"reference model {config.paths.reference} cannot follow the trained model: it has another {name}"
            )
    return MovingReference(model, update.mix, update.every_steps)


def _model_of_its_own(config: TrainerConfig, policy: nn.Module) -> Any:
    device = next(policy.parameters()).device
    frozen = load_policy(config.paths.reference or config.paths.model, dtype=config.spec.model.dtype, device=device)
    size, policy_size = (causal_model(m).get_output_embeddings().weight.shape[0] for m in (frozen, policy))
    if size != policy_size:
        raise ModelError(
            f"reference model {config.paths.reference} has {size} token embeddings, the trained model has {policy_size}"
        )
    check_head(frozen)
    return frozen
