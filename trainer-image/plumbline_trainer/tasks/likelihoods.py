"""What the model under training, and a reference that is asked along with it, say about sequences."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import nn

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.weighting import Alignment
from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.modeling.adapters import adapter_off, has_adapter
from plumbline_trainer.modeling.linear_head import LOGIT_ELEMENTS
from plumbline_trainer.modeling.logprobs import (
    CompletionLogprobs,
    completion_logprobs,
    laid_out,
    predicting_states,
    token_logprobs,
)
from plumbline_trainer.modeling.masked_likelihood import (
    draw_masks,
    load_masked_policy,
    masked_logprob_estimates,
    noise_seed,
)
from plumbline_trainer.modeling.reference import Reference, open_reference
from plumbline_trainer.modeling.reward_head import sequence_scores
from plumbline_trainer.modeling.token_divergence import completion_kl, token_statistic
from plumbline_trainer.objectives.preference.inputs import TokenLogprobs
from plumbline_trainer.objectives.preference.weighting import typical_logprobs
from plumbline_trainer.tasks.objective_inputs import SequenceValues
from plumbline_trainer.tasks.preference_data import spec_of


class Likelihoods(Protocol):
    """Values of the sequences of some rows, with gradients for the model under training."""

    def __call__(self, sequences: SequenceBatch, rows: list[int], turn: int | str) -> SequenceValues:
        """`rows` are the numbers of the rows whose sequences these are; `turn` is the step, or "evaluation"."""


class Scores:
    """Scalar scores of a reward model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, sequences: SequenceBatch, rows: list[int], turn: int | str) -> SequenceValues:
        return SequenceValues(sequence_scores(self._model, sequences))


class Causal:
    """Log-probabilities under a causal language model, with what an objective asks for beside their sums."""

    def __init__(
        self,
        model: nn.Module,
        *,
        by_token: bool = False,
        alignment: Alignment = "none",
        moving: nn.Module | None = None,
        divergence_from: Reference | None = None,
    ) -> None:
        """`alignment` asks for the typical log-probabilities of pair weights, `moving` is a reference whose numbers
        cannot be kept, `divergence_from` a reference whose divergence over the vocabulary enters the loss."""
        self._model, self._by_token, self._alignment = model, by_token, alignment
        self._moving, self._divergence_from = moving, divergence_from

    def __call__(self, sequences: SequenceBatch, rows: list[int], turn: int | str) -> SequenceValues:
        states = predicting_states(self._model, sequences)
        targets = sequences.targets[sequences.mask]
        scored = token_logprobs(self._model, states, targets, 1.0, LOGIT_ELEMENTS)
        logprobs = CompletionLogprobs(laid_out(scored, sequences.mask), sequences.mask)
        reference = None
        if self._moving is not None:
            with torch.no_grad():
                reference = completion_logprobs(self._moving, sequences)
        by_token = None
        if self._by_token:
            by_token = TokenLogprobs(
                logprobs.values,
                logprobs.mask,
                None if reference is None else reference.values,
                self._typical(states, sequences.mask),
            )
        return SequenceValues(
            logprobs.sums,
            by_token,
            None if reference is None else reference.sums,
            self._divergences(states, sequences),
        )

    def _typical(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        if self._alignment == "none":
            return None
        statistic = partial(typical_logprobs, self._alignment)
        return laid_out(token_statistic(self._model, states.detach(), statistic), mask)

    def _divergences(self, states: torch.Tensor, sequences: SequenceBatch) -> torch.Tensor | None:
        """[S]: the divergence from the reference, summed over each completion."""
        if self._divergence_from is None:
            return None
        return completion_kl(self._model, self._divergence_from, states, sequences).sum(dim=1)


class Masked:
    """Estimated log-probabilities under a masked diffusion language model and its reference."""

    def __init__(self, config: TrainerConfig, model: nn.Module, mask_id: int, device: torch.device) -> None:
        spec = spec_of(config)
        self._model, self._mask_id, self._seed = model, mask_id, spec.training.seed
        self._objective = spec.objective.value
        if config.paths.reference is None and has_adapter(model):
            self._reference = model
        else:
            location = config.paths.reference or config.paths.model
            self._reference = load_masked_policy(location, dtype=spec.model.dtype, device=device)
            self._reference.requires_grad_(False).eval()

    def __call__(self, sequences: SequenceBatch, rows: list[int], turn: int | str) -> SequenceValues:
        width = sequences.size // len(rows)
        places = [(row, completion) for row in rows for completion in range(width)]
        own = self._estimate(self._model, sequences, [noise_seed(self._seed, turn, *place) for place in places])
        separate = not self._objective.shared_noise
        seeds = [noise_seed(self._seed, turn, *place, reference=separate) for place in places]
        with torch.no_grad(), adapter_off(self._reference) if has_adapter(self._reference) else nullcontext():
            reference = self._estimate(self._reference, sequences, seeds)
        return SequenceValues(own, reference=reference)

    def _estimate(self, model: nn.Module, sequences: SequenceBatch, seeds: list[int]) -> torch.Tensor:
        draws = draw_masks(
            sequences.mask.cpu(),
            seeds,
            samples=self._objective.samples,
            masks_per_step=self._objective.masks_per_step,
        )
        return masked_logprob_estimates(model, sequences, self._mask_id, draws.to(sequences.mask.device))


def divergence_reference(config: TrainerConfig, policy: nn.Module) -> Reference | None:
    """The reference model that is held where the objective needs its whole distribution at every token."""
    needed = any(part.needs_reference_kl for part in spec_of(config).objective.value.parts())
    return open_reference(config, policy) if needed else None
