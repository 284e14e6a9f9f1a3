"""A buffer of samples of earlier rollouts, from which some are drawn by priority.

A stored sample keeps the log-probabilities of the policy that sampled it, always as `old_logprobs`, so that an update
can correct for its age.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plumbline_api.methods.exploration.replay import PossibilityPassRate, ReplayBuffer, Selective
from plumbline_trainer.exploration.registry import REPLAYS
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.experience import Experience, Rollout, decode_rollout, encode_rollout
from plumbline_trainer.rollout.sampling import Stream, uniforms


@dataclass(frozen=True)
class Stored:
    """One sample and what it is drawn by."""

    number: int
    """The rollout that it is from."""

    priority: float
    experience: Experience
    encoded: dict[str, Any]
    """Its form in a checkpoint, made once: the state is asked for after every step."""


class PriorityBuffer(ABC):
    """Bounded memory: forgets what is older than `max_age` rollouts, then what has the lowest priority."""

    def __init__(self, parameters: ReplayBuffer, seed: int) -> None:
        self._bounds = parameters
        self._seed = seed
        self._last = 0
        self.stored: list[Stored] = []
        """In the order in which they came."""

    @abstractmethod
    def priority(self, experience: Experience) -> float:
        """How likely it is drawn, in relation to others; what has 0 is not kept."""

    @abstractmethod
    def wanted(self, learnt: int, silent: int) -> int:
        """How many samples are replayed beside `learnt` ones with and `silent` ones without an advantage."""

    def draw(self, number: int, learnt: int, silent: int, first_slot: int) -> list[Experience]:
        """Samples in proportion to their priority and without repetition: of all that are left, one after the other.

        The largest of log(u) / priority, with a uniform u for each, are such a draw (Efraimidis and Spirakis 2006).
        """
        self._forget(number)
        count = min(self.wanted(learnt, silent), len(self.stored))
        if not count:
            return []
        [numbers] = uniforms([Stream(self._seed, "replay", number, 0, 0)], np.arange(len(self.stored))[None, :])
        with np.errstate(divide="ignore"):
            keys = np.log(numbers) / np.array([stored.priority for stored in self.stored])
        chosen = np.argsort(-keys, kind="stable")[:count]
        return [
            replace(self.stored[place].experience, slot=first_slot + offset, sample=0)
            for offset, place in enumerate(chosen.tolist())
        ]

    def add(self, number: int, experiences: Sequence[Experience]) -> None:
        """Keeps samples with their behaviour log-probabilities: the trainer's where they exist, else the sampler's."""
        for experience in experiences:
            priority = self.priority(experience)
            if priority > 0:
                old = experience.sampled_logprobs if experience.old_logprobs is None else experience.old_logprobs
                kept = replace(experience, old_logprobs=old)
                self.stored.append(Stored(number, priority, kept, _encode(kept)))
        self._forget(number)
        if len(self.stored) > self._bounds.capacity:
            ranked = sorted(range(len(self.stored)), key=lambda place: (-self.stored[place].priority, -place))
            self.stored = [self.stored[place] for place in sorted(ranked[: self._bounds.capacity])]

    def metrics(self) -> dict[str, Metric]:
        """Share of the capacity in use, and mean age in rollouts."""
        ages = sum(self._last - stored.number for stored in self.stored)
        return {
            "replay/full": Metric(float(len(self.stored)), float(self._bounds.capacity)),
            "replay/age": Metric(float(ages), float(len(self.stored))),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "last": self._last,
            "stored": [
                {"number": stored.number, "priority": stored.priority, "experience": stored.encoded}
                for stored in self.stored
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last = state["last"]
        self.stored = [
            Stored(entry["number"], entry["priority"], _decode(entry["experience"]), entry["experience"])
            for entry in state["stored"]
        ]

    def _forget(self, number: int) -> None:
        self._last = number
        self.stored = [stored for stored in self.stored if number - stored.number <= self._bounds.max_age]


@REPLAYS.implements(Selective)
class SelectiveReplay(PriorityBuffer):
    """Priority |A|^alpha, the mean over tokens where advantages are of tokens; fills the places of samples without
    advantage (VL-Rethinker, Wang et al. 2025, arXiv:2504.08837)."""

    def __init__(self, parameters: Selective, seed: int) -> None:
        super().__init__(parameters, seed)
        self._alpha = parameters.alpha

    def priority(self, experience: Experience) -> float:
        size = float(experience.advantages.double().abs().mean()) if len(experience.advantages) else 0.0
        return size**self._alpha if size else 0.0

    def wanted(self, learnt: int, silent: int) -> int:
        return silent


@REPLAYS.implements(PossibilityPassRate)
class PossibilityPassRateReplay(PriorityBuffer):
    """Priority alpha * possibility + (1 - alpha) * pass rate (PPER; Chen et al. 2024, arXiv:2410.12236).

    The paper's possibility is the probability of the whole program, which is 0 for all but the shortest; here it is the
    geometric mean over its tokens, exp(mean log pi), so that both parts lie between 0 and 1. The pass rate is the
    reward, between 0 and 1 by cutting off.
    """

    def __init__(self, parameters: PossibilityPassRate, seed: int) -> None:
        super().__init__(parameters, seed)
        self._alpha, self._share = parameters.alpha, parameters.share

    def priority(self, experience: Experience) -> float:
        logprobs = experience.sampled_logprobs.double()
        possibility = float(logprobs.mean().exp()) if len(logprobs) else 0.0
        return self._alpha * possibility + (1 - self._alpha) * min(max(experience.reward, 0.0), 1.0)

    def wanted(self, learnt: int, silent: int) -> int:
        return round(self._share * learnt)


def _encode(experience: Experience) -> dict[str, Any]:
    """The form that a rollout in a checkpoint gives a sample."""
    alone = Rollout(0, [], 0.0, 0.0, {})
    entry: dict[str, Any] = encode_rollout(alone, [experience], {})["experiences"][0]
    return entry


def _decode(entry: dict[str, Any]) -> Experience:
    state = encode_rollout(Rollout(0, [], 0.0, 0.0, {}), [], {})
    [experience] = decode_rollout({**state, "experiences": [entry]}, 0, 1).experiences
    return experience
