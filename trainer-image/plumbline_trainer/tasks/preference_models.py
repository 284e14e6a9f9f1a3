"""The models of a preference job: what is trained, its reference, and how their forward passes are laid out."""

from __future__ import annotations

import torch
from torch import nn

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.data.batches import Layout, SequenceBatch, TokenSequence
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.inputs import digest_of_directory
from plumbline_trainer.modeling.adapters import adapter_off, add_lora, has_adapter
from plumbline_trainer.modeling.compilation import compile_layers
from plumbline_trainer.modeling.loading import load_policy, resolve_directory, select_dtype
from plumbline_trainer.modeling.logprobs import check_head, completion_logprobs
from plumbline_trainer.modeling.masked_likelihood import load_masked_policy
from plumbline_trainer.modeling.reference import open_reference
from plumbline_trainer.modeling.reference_cache import ReferenceCache, entry_name
from plumbline_trainer.modeling.reward_head import HEAD, load_reward_model
from plumbline_trainer.modeling.scoring import evaluating, score_rows
from plumbline_trainer.tasks.layouts import model_layout
from plumbline_trainer.tasks.preference_data import spec_of


def load_trained_model(config: TrainerConfig, pad_token_id: int, device: torch.device) -> nn.Module:
    """The model that the job trains: a language model or a reward model, with the job's adapter where it has one."""
    spec = spec_of(config)
    checkpointing = spec.training.activation_checkpointing
    scores_rows = spec.objective.value.trains_scalar_head
    if scores_rows:
        model = load_reward_model(
            config.paths.model,
            pad_token_id=pad_token_id,
            seed=spec.training.seed,
            dtype=spec.model.dtype,
            device=device,
            activation_checkpointing=checkpointing,
        )
    elif spec.objective.value.masked_likelihood:
        model = load_masked_policy(
            config.paths.model, dtype=spec.model.dtype, device=device, activation_checkpointing=checkpointing
        )
    else:
        model = load_policy(
            config.paths.model, dtype=spec.model.dtype, device=device, activation_checkpointing=checkpointing
        )
        check_head(model)
    if spec.training.compile:
        compile_layers(model)
    if spec.peft is None:
        return model
    return add_lora(model, spec.peft.value, seed=spec.training.seed, scalar_head=HEAD if scores_rows else None)


def layout_of(config: TrainerConfig, model: nn.Module, pad_token_id: int) -> Layout:
    """How rows become forward passes of `model`. With `microBatchSize` passes are counted in rows, else in tokens."""
    spec = spec_of(config)
    objective = spec.objective.value
    longest = spec.training.max_prompt_tokens + spec.training.max_completion_tokens
    if objective.masked_likelihood:
        copies = objective.samples * objective.masks_per_step
        return model_layout(model, pad_token_id, longest=longest, copies=copies, looks_left=False)
    return model_layout(model, pad_token_id, longest=longest)


def reference_logprobs(
    config: TrainerConfig,
    policy: nn.Module,
    rows: list[list[TokenSequence]],
    layout: Layout,
    ranks: Ranks,
    *,
    by_token: bool,
) -> torch.Tensor:
    """log pi_ref of every sequence of `rows`, or of every completion token: float32 on the CPU, on every rank.

    Without `spec.reference` the reference is the policy as it is now, before its first update and before any
    checkpoint is restored, so no second model is held in memory. Numbers that a cache holds are not computed again.
    """
    cache = ReferenceCache(config.paths.checkpoints)
    spec = spec_of(config)

    def known() -> tuple[str, torch.Tensor | None]:
        digest = digest_of_directory(resolve_directory(config.paths.reference or config.paths.model))
        sequences = [sequence for row in rows for sequence in row]
        name = entry_name(digest, select_dtype(spec.model.dtype, ranks.device), sequences, by_token=by_token)
        return name, cache.read(name)

    name, found = ranks.on_main(known)
    numbers = sum(len(s.completion_ids) if by_token else 1 for row in rows for s in row)
    if found is not None and found.shape == (numbers,):
        return found
    model = policy if config.paths.reference is None else open_reference(config, policy).model

    def score(batch: SequenceBatch) -> torch.Tensor:
        logprobs = completion_logprobs(model, batch)
        return logprobs.values[logprobs.mask] if by_token else logprobs.sums

    with evaluating(model):
        if has_adapter(model):
            with adapter_off(model):
                computed = score_rows(score, rows, layout, ranks, by_token=by_token)
        else:
            computed = score_rows(score, rows, layout, ranks, by_token=by_token)
    ranks.on_main(lambda: cache.write(name, computed))
    return computed
