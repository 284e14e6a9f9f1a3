"""Completions scored by a trained reward model on the trainer's device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

from plumbline_api.methods.verifiers.learned import RewardModelScore
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.loading import (
    check_directory,
    load_configuration,
    load_model,
    load_tokenizer,
    resolve_directory,
    select_dtype,
    weight_files,
)
from plumbline_trainer.modeling.reward_head import HEAD, sequence_scores
from plumbline_trainer.rewards.pool import Outcome
from plumbline_trainer.rewards.scoring import Sample
from plumbline_trainer.tasks.layouts import model_layout

_LONGEST = 1 << 20
"""Tokens of the longest sequence where the architecture has no limit of its own."""

_SQUASH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda scores: scores,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class RewardModelComponent:
    """One component of the reward that is a model. Implements `scoring.BatchComponent`."""

    def __init__(self, location: str, parameters: RewardModelScore, device: torch.device) -> None:
        """Loads the model at `location` once. Raises `ModelError`, also for a model without a trained head."""
        directory = resolve_directory(location)
        check_reward_model(directory)
        self._renderer = Renderer(load_tokenizer(directory))
        pad = self._renderer.tokenizer.pad_token_id
        self._model = load_model(
            directory,
            dtype=select_dtype(parameters.dtype, device),
            device=device,
            model_class=AutoModelForSequenceClassification,
            num_labels=1,
            pad_token_id=pad,
        )
        self._model.eval().requires_grad_(False)
        positions = getattr(load_configuration(directory).get_text_config(), "max_position_embeddings", None)
        self._longest = positions if isinstance(positions, int) and positions > 0 else _LONGEST
        self._layout = model_layout(self._model, pad, longest=min(self._longest, 4096))
        self._squash, self._scale = _SQUASH[parameters.squash], parameters.scale

    def score(
        self,
        samples: Sequence[Sample],
        poll: Callable[[], None] = lambda: None,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> list[Outcome]:
        """The outcome of every sample, in order: `squash(scale * score)` of prompt and completion.

        Both are rendered by the reward model's own tokenizer and chat template. A completion that is too long for the
        model is an error. Completions of one prompt stand side by side and share its computation.
        """
        sequences = self._sequences(samples)
        outcomes: list[Outcome | None] = [self._too_long(sequence) for sequence in sequences]
        fitting = [index for index, outcome in enumerate(outcomes) if outcome is None]
        groups = [
            part
            for _, group in groupby(fitting, key=lambda index: tuple(sequences[index].prompt_ids))
            for part in self._parts(list(group), sequences)
        ]
        sizes = [self._layout.size([sequences[index] for index in group]) for group in groups]
        for some in self._layout.passes(sizes):
            poll()
            started = time.monotonic()
            batch = self._layout.batch([[sequences[index] for index in groups[group]] for group in some])
            with torch.no_grad():
                raw = sequence_scores(self._model, batch.to(self._model.device))
                values = self._squash(self._scale * raw.double()).tolist()
            places = [index for group in some for index in groups[group]]
            seconds = (time.monotonic() - started) / len(places)
            for index, value in zip(places, values, strict=True):
                outcomes[index] = _finite(value, seconds)
        settled = [outcome for outcome in outcomes if outcome is not None]
        for outcome in settled:
            on_outcome(outcome)
        return settled

    def close(self) -> None:
        """The model goes with the object."""

    def _sequences(self, samples: Sequence[Sample]) -> list[TokenSequence]:
        prompts = [sample.prompt for sample in samples]
        completions = self._renderer.completion_ids(prompts, [sample.completion for sample in samples])
        return [
            TokenSequence(prompt, completion)
            for prompt, completion in zip(self._renderer.prompt_ids(prompts), completions, strict=True)
        ]

    def _parts(self, group: list[int], sequences: Sequence[TokenSequence]) -> list[list[int]]:
        """Completions of one prompt in runs that fit into a pass."""
        runs: list[list[int]] = [[]]
        for index in group:
            longer = [sequences[one] for one in [*runs[-1], index]]
            if runs[-1] and self._layout.size(longer).tokens > self._layout.token_budget:
                runs.append([])
            runs[-1].append(index)
        return runs

    def _too_long(self, sequence: TokenSequence) -> Outcome | None:
        if len(sequence) <= self._longest:
            return None
        return Outcome(
            None, f"prompt and completion have {len(sequence)} tokens, the reward model has {self._longest} positions"
        )


def check_reward_model(directory: Path) -> None:
    """Raises `ModelError` for a directory that is no reward model; reads the names of its weights and not the weights.

    transformers would make a new head of random numbers for a plain language model.
    """
    check_directory(directory)
    for file in weight_files(directory):
        with safe_open(file, framework="pt") as weights:
            if any(name.startswith(f"{HEAD}.") for name in weights.keys()):  # noqa: SIM118  (it is no mapping)
                return
    raise ModelError(f"model directory {directory}: it is no reward model: the weights have no head `{HEAD}`")


def _finite(value: float, seconds: float) -> Outcome:
    if value != value or value in (float("inf"), float("-inf")):
        return Outcome(None, f"the reward model's score is {value}, which is not finite", seconds=seconds)
    return Outcome(value, seconds=seconds)
