"""The loss that teaches how much was removed from a completion, beside a preference objective."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from plumbline_api.methods.auxiliary import PreferenceDegree
from plumbline_trainer.data.batches import Layout
from plumbline_trainer.data.degradation import degraded
from plumbline_trainer.data.degraded_copies import degraded_copies
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.modeling.degree_head import attach_degree_head, degree_logits
from plumbline_trainer.objectives.preference.inputs import Losses
from plumbline_trainer.objectives.preference.preference_degree import AUXILIARY_LOSSES
from plumbline_trainer.tasks.preference_data import COMPLETIONS


class DegreeLoss:
    """Degraded copies of rows in every step, and what the degree head says about them."""

    def __init__(
        self, parameters: PreferenceDegree, model: nn.Module, renderer: Renderer, layout: Layout, *, seed: int
    ) -> None:
        attach_degree_head(model, parameters.levels, seed=seed)
        self._parameters, self._model, self._renderer = parameters, model, renderer
        self._layout, self._seed = layout, seed

    def __call__(self, rows: Sequence[object], numbers: Sequence[int], turn: int | str, device: torch.device) -> Losses:
        """Losses `[B]` of `rows`, which have the numbers `numbers` in their data set, and metrics."""
        copies = degraded_copies(
            rows,
            numbers,
            COMPLETIONS["pairs"],
            self._renderer,
            degraded,
            levels=self._parameters.levels,
            seed=self._seed,
            turn=turn,
        )
        batch = self._layout.batch(copies.sequences).to(device)
        logits = degree_logits(self._model, batch).view(len(rows), -1, self._parameters.levels)
        degrees = torch.tensor(copies.degrees, device=device)
        return AUXILIARY_LOSSES.of(self._parameters)(self._parameters, logits, degrees)
