"""The rounds of a job whose model stays as it is while a head learns to guide it: what is rolled in, what is kept.

A completion begins with the guided policy, which so decides which beginnings are learnt about, and goes on with the
model alone, whose outcomes are what the head predicts. Where it changes over is drawn for each completion, evenly over
the mean length of the rollout before; in the first one, before anything was learnt, the model writes everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from torch import nn

from plumbline_api.methods.policy.value_guidance import QSharp
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.modeling.success_head import attach_success_head, success_head
from plumbline_trainer.objectives.policy.value_guidance import UNGUIDED
from plumbline_trainer.rollout.experience import Experience, Rollout, decode_rollout, encode_rollout
from plumbline_trainer.rollout.guidance import Guide
from plumbline_trainer.rollout.judged import JudgedRollout


def attach_guidance(spec: RLVRJobSpec, model: nn.Module) -> Guide | None:
    """Freezes `model` and adds a head to it where the objective guides; None where it does not."""
    objective = spec.objective.value
    if not isinstance(objective, QSharp):
        return None
    attach_success_head(model, objective.width, seed=spec.training.seed)
    head = success_head(model)
    assert head is not None
    return Guide(head, objective.eta, objective.candidates, spec.rollout.sampling.temperature)


def guidance_settings(spec: RLVRJobSpec) -> dict[str, float]:
    """What is written beside an exported head: everything that a guide is made of besides it."""
    objective = spec.objective.value
    assert isinstance(objective, QSharp)
    temperature = spec.rollout.sampling.temperature
    return {"eta": objective.eta, "candidates": objective.candidates, "temperature": temperature}


class GuidedRounds:
    """The completions of the newest rollouts, of all ranks, and how far the next one is guided.

    Data of all rounds are aggregated, as theory asks for, but only as far back as `keepRollouts`, which bounds a step's
    work and a checkpoint's size: the model never changes, so that old completions are as good as new ones, but the
    beginnings that older heads chose are less and less those that matter. Does nothing where nothing guides.
    """

    def __init__(self, spec: RLVRJobSpec, ranks: Ranks) -> None:
        objective = spec.objective.value
        self._keep = objective.keep_rollouts if isinstance(objective, QSharp) else 0
        self._ranks = ranks
        self._within = 0
        self._kept: list[tuple[list[Experience], dict[str, Any]]] = []
        """Each rollout's completions, and their form in a checkpoint, made once."""

    @property
    def within(self) -> int | None:
        """Guidance ends before this token of each completion; None where nothing guides."""
        return self._within if self._keep else None

    def earlier(self, first_slot: int) -> list[Experience]:
        """This rank's completions of earlier rollouts, in slots from `first_slot`."""
        found: list[Experience] = []
        slot = first_slot
        for experiences, _ in self._kept:
            numbers = {own: slot + place for place, own in enumerate(dict.fromkeys(one.slot for one in experiences))}
            found += [replace(one, slot=numbers[one.slot]) for one in experiences]
            slot += len(numbers)
        return [one for one in found if one.slot % self._ranks.world_size == self._ranks.rank]

    def remember(self, number: int, own: Sequence[Experience], everyone: JudgedRollout) -> None:
        """Keeps rollout `number`, of which `own` are this rank's completions. A collective of the ranks."""
        if not self._keep:
            return
        lengths = everyone.lengths[everyone.valid]
        if len(lengths):
            self._within = ceil(float(lengths.double().mean()))
        shares = self._ranks.gather(list(own))
        everyones = sorted((one for share in shares for one in share), key=lambda one: (one.slot, one.sample))
        encoded = encode_rollout(Rollout(number, [], 0.0, 0.0, {}), everyones, {})
        # what the next step learns from besides its own: one rollout less than it learns from in all
        self._kept = [*self._kept, (everyones, encoded)][-(self._keep - 1) :] if self._keep > 1 else []

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; later rollouts do not change what was returned."""
        return {"within": self._within, "kept": [encoded for _, encoded in self._kept]} if self._keep else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        if self._keep:
            self._within = state["within"]
            self._kept = [(decode_rollout(encoded, 0, 1).experiences, encoded) for encoded in state["kept"]]


def learnt_tokens(experience: Experience) -> int:
    """Tokens that a loss is taken of."""
    unguided = experience.prepared.get(UNGUIDED)
    return len(experience.tokens) if unguided is None else int(unguided.sum())
