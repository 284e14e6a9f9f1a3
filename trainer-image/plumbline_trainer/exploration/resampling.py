"""What more is sampled once the first samples are judged."""

from __future__ import annotations

from math import ceil, sqrt

import torch

from plumbline_api.methods.exploration.family import Resampling
from plumbline_api.methods.exploration.resampling import DifficultyAdaptive, DynamicSampling
from plumbline_trainer.exploration.registry import RESAMPLINGS, ResamplingPlan
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout

_SLACK = 1e-9
"""Keeps a quotient that is a whole number but for rounding from being rounded up."""


def plan_resampling(parameters: Resampling | None, rollout: JudgedRollout, attempt: int) -> ResamplingPlan:
    """What is sampled next, after `attempt` rounds of it; nothing without parameters.

    `rollout` holds what was judged so far: with the samples that joined a group, without groups that were replaced.
    """
    return ResamplingPlan() if parameters is None else RESAMPLINGS.of(parameters)(parameters, rollout, attempt)


@RESAMPLINGS.implements(DifficultyAdaptive)
def difficulty_adaptive(parameters: DifficultyAdaptive, rollout: JudgedRollout, attempt: int) -> ResamplingPlan:
    """More samples of prompts with a pass rate below 1/2, once (DARS; Yang et al. 2025, arXiv:2508.13755).

    Advantages of binary rewards with pass rate u, divided by their standard deviation, are sqrt((1-u)/u) for right and
    -sqrt(u/(1-u)) for wrong samples: n samples have a summed absolute advantage of S = 2 n sqrt(u(1-u)), which is n at
    u = 1/2. With n first samples, m samples in all reach

        equalTreatment     2 m sqrt(u(1-u)) = n               m = n / (2 sqrt(u(1-u)))
        hardnessWeighted   2 m sqrt(u(1-u)) = 2 (1-u) n       m = n sqrt((1-u)/u)

    rounded up, at most `max_samples`, which is also what u = 0 gets. u is the estimate from the first samples, as in
    the paper; the pass rate of all m will differ from it.
    """
    if attempt:
        return ResamplingPlan()
    extra = {}
    for group, samples, correct in _counts(rollout):
        if not samples or 2 * correct >= samples:
            continue
        rate = correct / samples
        wanted = parameters.max_samples
        if correct:
            factor = 1 / (2 * sqrt(rate * (1 - rate)))
            if parameters.schedule == "hardnessWeighted":
                factor *= 2 * (1 - rate)
            wanted = min(wanted, ceil(samples * factor - _SLACK))
        if wanted > samples:
            extra[group] = wanted - samples
    return ResamplingPlan(extra=extra)


@RESAMPLINGS.implements(DynamicSampling)
def dynamic_sampling(parameters: DynamicSampling, rollout: JudgedRollout, attempt: int) -> ResamplingPlan:
    """Groups whose valid rewards are all the same give way to other prompts (DAPO; arXiv:2503.14476, sec. 3.2)."""
    if attempt >= parameters.max_attempts:
        return ResamplingPlan()
    differs = Groups(rollout.groups, rollout.valid).differs(rollout.rewards)
    return ResamplingPlan(replaced=tuple(torch.unique(rollout.groups[~differs]).tolist()))


def _counts(rollout: JudgedRollout) -> list[tuple[int, int, int]]:
    """(group, valid completions, correct ones) of every group."""
    ids, index = torch.unique(rollout.groups, return_inverse=True)
    samples = torch.zeros(len(ids), dtype=torch.long).index_add_(0, index, rollout.valid.long())
    correct = torch.zeros(len(ids), dtype=torch.long).index_add_(0, index, (rollout.valid & rollout.correct).long())
    return list(zip(ids.tolist(), samples.tolist(), correct.tolist(), strict=True))
