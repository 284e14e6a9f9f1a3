"""What a curriculum is to the loop, and which class implements which method.

    curriculum = open_curriculum(parameters, prompts)          # parameters: the API's method, or None
    if curriculum.probe_samples:                               # 0 once the probe is part of its state
        curriculum.probed(probe)
    rows = curriculum.choose(number, count)                    # slot -> row of the training set
    curriculum.observe(number, rows, rollout, advantages)      # the groups of `rollout` are slots

A choice is a pure function of (seed, number, attempt) and of the state, which only `probed` and `observe` change, by
numbers that are the same on all ranks. So ranks agree without talking, and a resumed run chooses what an uninterrupted
one would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from plumbline_api.methods.curriculum.family import Curriculum as CurriculumParameters
from plumbline_trainer.curriculum.probe import Probe
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout


@dataclass(frozen=True)
class Prompts:
    """What a curriculum knows of the training prompts."""

    columns: Sequence[Mapping[str, Any]]
    """Each row's columns."""

    places: Sequence[str]
    """Each row's file and line, for messages."""

    seed: int
    shuffle: bool = True
    """Whether a new order is drawn for every epoch; otherwise rows come in the file's order."""

    @property
    def count(self) -> int:
        return len(self.columns)


class Curriculum(Protocol):
    """Which prompts a rollout takes."""

    @property
    def probe_samples(self) -> int:
        """Completions of every prompt that it needs to see judged before it can choose; 0 where it needs none."""

    def probed(self, probe: Probe) -> None:
        """Takes the judged completions of the start model. Raises `DataError` where no prompt would be left."""

    def choose(self, number: int, count: int, attempt: int = 0, exclude: Collection[int] = ()) -> list[int]:
        """Rows of rollout `number`.

        Attempts above 0 replace prompts that gave no signal: `count` further rows that are not in `exclude`, or fewer
        where no more are left. `count` is the same in attempt 0 of every rollout.
        """

    def observe(self, number: int, rows: Sequence[int], rollout: JudgedRollout, advantages: Tensor) -> None:
        """Learns from rollout `number` of all ranks: `rollout.groups` are indices into `rows`, `advantages` is [N] or
        [N, T]."""

    def metrics(self) -> dict[str, Metric]:
        """What it does at present; the same on every rank."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, from which `load_state_dict` goes on exactly. Later changes do not reach it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""


CURRICULA: Registry[Callable[[Any, Prompts], Curriculum]] = Registry(CurriculumParameters)
