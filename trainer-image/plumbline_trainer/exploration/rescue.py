"""What is done about prompts whose samples fail: which groups are helped, and how."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from plumbline_api.methods.exploration.family import Rescue
from plumbline_api.methods.exploration.rescue import Demonstration, Gold, Guidance
from plumbline_trainer.exploration.registry import RESCUES, RescuePlan
from plumbline_trainer.rollout.judged import JudgedRollout


def plan_rescue(parameters: Rescue | None, rollout: JudgedRollout, available: Collection[int]) -> RescuePlan:
    """What is done about groups that failed; `available` are the groups whose rows have the text that it takes."""
    return RescuePlan() if parameters is None else RESCUES.of(parameters)(parameters, rollout, available)


def success_rates(rollout: JudgedRollout) -> dict[int, float]:
    """Group -> share of its valid completions that are correct; groups without any are left out."""
    ids, index = torch.unique(rollout.groups, return_inverse=True)
    samples = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, index, rollout.valid.double())
    correct = torch.zeros(len(ids), dtype=torch.float64)
    correct.index_add_(0, index, (rollout.valid & rollout.correct).double())
    return {
        group: right / judged
        for group, right, judged in zip(ids.tolist(), correct.tolist(), samples.tolist(), strict=True)
        if judged
    }


def failed_groups(rollout: JudgedRollout) -> list[int]:
    """Groups with a valid completion and no correct one, sorted."""
    return [group for group, rate in success_rates(rollout).items() if rate == 0]


@RESCUES.implements(Guidance)
def guidance(parameters: Guidance, rollout: JudgedRollout, available: Collection[int]) -> RescuePlan:
    """Completions with a hint for groups that failed (Guide; Nath et al. 2025, arXiv:2506.13923).

    They join the group: its baseline is over plain and guided completions together. An update needs of each guided
    completion y the log-probabilities under the prompt x without the hint h, and the ratio

        pi(y_t | x, y_<t) / pi_old(y_t | x, h, y_<t),

    so `Experience.old_logprobs` is what the sampler computed with the hint, also in the first update, where it is not
    the present policy's. Without importance correction it is pi_old(y_t | x, y_<t).
    """
    return RescuePlan(hinted={group: parameters.samples for group in failed_groups(rollout) if group in available})


@RESCUES.implements(Gold)
def gold(parameters: Gold, rollout: JudgedRollout, available: Collection[int]) -> RescuePlan:
    """The reference solution for the last completion of groups that failed (GCPO; Wu and Liu 2025, arXiv:2510.07790).

    All completions of such a group are wrong; which one gives way does not matter to its baseline where rewards are
    alike, and the last one keeps the places of the others.
    """
    last: dict[int, int] = {}
    for place, group in enumerate(rollout.groups.tolist()):
        if rollout.valid[place]:
            last[group] = place
    return RescuePlan(solved={group: last[group] for group in failed_groups(rollout) if group in available})


@RESCUES.implements(Demonstration)
def demonstration(parameters: Demonstration, rollout: JudgedRollout, available: Collection[int]) -> RescuePlan:
    """Groups whose success rate is at most the threshold are learnt from their demonstration (HPT; Lv et al. 2025).

    The gate: success rate P > threshold -> reinforcement learning on the samples alone, otherwise the likelihood of
    the demonstration alone: -weight * log pi of each of its tokens, whatever the objective, in the job's aggregation.
    """
    rates = success_rates(rollout)
    gated = [group for group, rate in rates.items() if rate <= parameters.threshold and group in available]
    return RescuePlan(demonstrated=tuple(gated))


def without_groups(rollout: JudgedRollout, groups: Collection[int]) -> JudgedRollout:
    """The rollout with the completions of `groups` not valid: they enter neither loss nor counts."""
    out = torch.isin(rollout.groups, torch.tensor(sorted(groups), dtype=torch.long))
    return replace(rollout, valid=rollout.valid & ~out)
