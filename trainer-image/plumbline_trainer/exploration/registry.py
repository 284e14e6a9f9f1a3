"""The stages of exploration as the loop meets them, and which functions implement which method.

In the order of a rollout:

    budgets = budget.budgets(rows, total)                     # samples of each slot; None: groupSize each
    while plan := plan_resampling(parameters, rollout, attempt): ...   # more samples, or other prompts; judged again
    plan = plan_rescue(parameters, rollout, available)        # hints, reference solutions, demonstrations
    rollout = select(parameters, rollout)                     # what is left out counts as not valid
    advantages = ...
    replayed = replay.draw(number, ...); replay.add(number, experiences)

Each is a pure function of the judged rollout of all ranks, or a small class whose state follows from such rollouts, so
that all ranks agree and a resumed run goes on as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from plumbline_api.methods.exploration.family import Replay as ReplayParameters
from plumbline_api.methods.exploration.family import Resampling, Rescue, SampleBudget, SampleSelection
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.experience import Experience
from plumbline_trainer.rollout.judged import JudgedRollout


class Budget(Protocol):
    """How many samples each prompt of a rollout gets."""

    def budgets(self, rows: Sequence[int], total: int) -> list[int]:
        """Samples for each of the `rows`, `total` together."""

    def observe(self, rows: Sequence[int], rollout: JudgedRollout) -> None:
        """Learns from a rollout of all ranks, whose groups are indices into `rows`; a probe's will do as well."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, from which `load_state_dict` goes on exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""


@dataclass(frozen=True)
class ResamplingPlan:
    """What is sampled next; false where there is nothing."""

    extra: Mapping[int, int] = field(default_factory=dict)
    """Group -> further samples of its prompt, which join it."""

    replaced: tuple[int, ...] = ()
    """Groups that give way to other prompts."""

    def __bool__(self) -> bool:
        return bool(self.extra or self.replaced)


@dataclass(frozen=True)
class RescuePlan:
    """What is done about groups that failed."""

    hinted: Mapping[int, int] = field(default_factory=dict)
    """Group -> completions to sample with the hint in the prompt, which join it."""

    solved: Mapping[int, int] = field(default_factory=dict)
    """Group -> place [0, N) of the completion that the row's reference solution replaces."""

    demonstrated: tuple[int, ...] = ()
    """Groups of which only the row's demonstration is learnt from."""

    def __bool__(self) -> bool:
        return bool(self.hinted or self.solved or self.demonstrated)


class Replay(Protocol):
    """Samples of earlier rollouts."""

    def draw(self, number: int, learnt: int, silent: int, first_slot: int) -> list[Experience]:
        """Samples to learn from again in rollout `number`, in slots of their own from `first_slot`.

        Of this rollout `learnt` samples of all ranks have an advantage and `silent` have none.
        """

    def add(self, number: int, experiences: Sequence[Experience]) -> None:
        """Takes the samples of rollout `number`, of all ranks and in the same order on each."""

    def metrics(self) -> dict[str, Metric]:
        """How full and how old it is; the same on every rank."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, from which `load_state_dict` goes on exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""


BUDGETS: Registry[Callable[[Any, int], Budget]] = Registry(SampleBudget)
"""(parameters, rows of the training set) -> budget"""

RESAMPLINGS: Registry[Callable[[Any, JudgedRollout, int], ResamplingPlan]] = Registry(Resampling)
"""(parameters, rollout, attempt from 0) -> plan"""

RESCUES: Registry[Callable[[Any, JudgedRollout, Collection[int]], RescuePlan]] = Registry(Rescue)
"""(parameters, rollout, groups whose rows have the text) -> plan"""

SELECTIONS: Registry[Callable[[Any, JudgedRollout], Tensor]] = Registry(SampleSelection)
"""(parameters, rollout) -> bool [N]: which completions are learnt from"""

REPLAYS: Registry[Callable[[Any, int], Replay]] = Registry(ReplayParameters)
"""(parameters, seed) -> replay"""
