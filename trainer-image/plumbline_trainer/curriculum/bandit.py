"""Categories of prompts as the arms of a bandit, whose values follow how much is learnt from each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plumbline_api.methods.curriculum.adaptive import SelfEvolving
from plumbline_trainer.curriculum.probe import Probe
from plumbline_trainer.curriculum.protocol import CURRICULA, Prompts
from plumbline_trainer.data.seeds import derive_seed, permutation
from plumbline_trainer.failures import DataError
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.rollout.sampling import Stream, uniforms

MAX_CATEGORIES = 256
"""Each has a metric of its own; a column of more values is rather an identifier than a category."""


@CURRICULA.implements(SelfEvolving)
class CategoryBandit:
    """Self-evolving curriculum (Chen et al. 2025, arXiv:2505.14970).

    Every slot draws a category c with probability softmax(Q / temperature)_c and a prompt of it uniformly, without
    repetition inside a rollout as far as the category has enough. After the rollout, for the categories in it,

        Q(c) <- rate * mean over the completions of c of |A|  +  (1 - rate) * Q(c),

    the TD(0) update of a bandit; |A| is the mean over tokens where advantages are of tokens. All Q start at 0.
    """

    probe_samples = 0

    def __init__(self, parameters: SelfEvolving, prompts: Prompts) -> None:
        self._parameters = parameters
        self._seed = prompts.seed
        self._categories = _categories(parameters.category_column, prompts)
        self.names = sorted(set(self._categories))
        """The categories, in the order of `values`."""

        self.values = np.zeros(len(self.names))
        """Q of each category."""

        members: dict[str, list[int]] = {name: [] for name in self.names}
        for row, category in enumerate(self._categories):
            members[category].append(row)
        self._members = [members[name] for name in self.names]

    @property
    def probabilities(self) -> np.ndarray:
        """Chance of each category to be drawn for a slot."""
        scaled = self.values / self._parameters.temperature
        weights = np.exp(scaled - scaled.max())
        return np.asarray(weights / weights.sum())

    def probed(self, probe: Probe) -> None:
        """It asks for no probe."""

    def choose(self, number: int, count: int, attempt: int = 0, exclude: Collection[int] = ()) -> list[int]:
        """A category that has no row outside `exclude` left gives none, so that replacements may be fewer."""
        stream = Stream(self._seed, "curriculum", number, attempt, 0)
        [drawn] = uniforms([stream], np.arange(count)[None, :])
        steps = np.cumsum(self.probabilities)
        arms = np.minimum(np.searchsorted(steps, drawn * steps[-1], side="right"), len(steps) - 1)
        excluded = set(exclude)
        queues = {arm: self._queue(int(arm), number, attempt, excluded) for arm in np.unique(arms)}
        taken = dict.fromkeys(queues, 0)
        rows = []
        for arm in arms:
            queue = queues[arm]
            if taken[arm] < len(queue) or (queue and attempt == 0):
                rows.append(queue[taken[arm] % len(queue)])
            taken[arm] += 1
        return rows

    def observe(self, number: int, rows: Sequence[int], rollout: JudgedRollout, advantages: Tensor) -> None:
        """Moves the values of the categories that were in the rollout."""
        size = advantages.detach().abs().double()
        if size.dim() == 2:
            mask = rollout.mask
            size = torch.where(mask, size, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for slot, valid, value in zip(rollout.groups.tolist(), rollout.valid.tolist(), size.tolist(), strict=True):
            if valid:
                category = self._categories[rows[slot]]
                sums[category] = sums.get(category, 0.0) + value
                counts[category] = counts.get(category, 0) + 1
        rate = self._parameters.rate
        for arm, name in enumerate(self.names):
            if name in counts:
                self.values[arm] = rate * sums[name] / counts[name] + (1 - rate) * self.values[arm]

    def metrics(self) -> dict[str, Metric]:
        """The value and the chance of every category."""
        chances = self.probabilities
        return {
            f"curriculum/{what}/{name}": Metric(float(numbers[arm]), 1.0)
            for what, numbers in (("value", self.values), ("chance", chances))
            for arm, name in enumerate(self.names)
        }

    def state_dict(self) -> dict[str, Any]:
        return {"values": dict(zip(self.names, self.values.tolist(), strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = np.array([state["values"][name] for name in self.names])

    def _queue(self, arm: int, number: int, attempt: int, excluded: set[int]) -> list[int]:
        members = self._members[arm]
        order = permutation(len(members), derive_seed(self._seed, "category", number, attempt, self.names[arm]))
        return [members[place] for place in order.tolist() if members[place] not in excluded]


def _categories(column: str, prompts: Prompts) -> list[str]:
    """Each row's category as text. Raises `DataError` naming the row that has none, or too many categories."""
    found = []
    for columns, place in zip(prompts.columns, prompts.places, strict=True):
        value = columns.get(column)
        if value is None or isinstance(value, (list, dict)) or str(value) == "":
            raise DataError(
                f"{place}: {column} must be text or a number: it is the category of curriculum.selfEvolving"
            )
        found.append(str(value))
    different = len(set(found))
    if different > MAX_CATEGORIES:
        raise DataError(
            f"column {column} has {different} different values; curriculum.selfEvolving takes up to {MAX_CATEGORIES} "
            "categories, with many rows each"
        )
    return found
