"""What is done about prompts whose samples fail: which groups, and what becomes of the judged rollout."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    the demonstration alone. With an advantage of `weight` and a ratio that starts at 1, the gradient of an objective
    with token ratios is that of -weight * log pi(demonstration), in the objective's own aggregation over tokens.
    """
    rates = success_rates(rollout)
    gated = [group for group, rate in rates.items() if rate <= parameters.threshold and group in available]
    return RescuePlan(demonstrated=tuple(gated))


@dataclass(frozen=True)
class Solution:
    """A reference solution as a completion."""

    logprobs: Tensor
    """float32 [T]: behaviour log-probabilities of its T tokens: the policy's before the update, or zeros."""

    text: str = ""
    components: Mapping[str, float] = field(default_factory=dict)
    """What the reward's components give it; NaN for one that is not here."""


def with_solutions(rollout: JudgedRollout, solutions: Mapping[int, Solution], reward: float) -> JudgedRollout:
    """The rollout with `solutions` in the places [0, N) of completions; each is right and has the total `reward`."""
    if not solutions:
        return rollout
    places = torch.tensor(list(solutions))
    width = max(rollout.logprobs.shape[1], *(len(solution.logprobs) for solution in solutions.values()))
    extra = width - rollout.logprobs.shape[1]

    def widened(values: Tensor) -> Tensor:
        values = pad(values, (0, extra))
        values[places] = 0
        return values

    logprobs = widened(rollout.logprobs)
    lengths, texts = rollout.lengths.clone(), list(rollout.texts)
    components = {name: values.clone() for name, values in rollout.components.items()}
    for place, solution in solutions.items():
        lengths[place] = len(solution.logprobs)
        logprobs[place, : len(solution.logprobs)] = solution.logprobs
        if texts:
            texts[place] = solution.text
        for name, values in components.items():
            values[place] = solution.components.get(name, torch.nan)
    return replace(
        rollout,
        rewards=rollout.rewards.index_fill(0, places, reward),
        valid=rollout.valid.index_fill(0, places, True),
        correct=rollout.correct.index_fill(0, places, True),
        truncated=rollout.truncated.index_fill(0, places, False),
        lengths=lengths,
        logprobs=logprobs,
        components=components,
        texts=texts,
        token_rewards=None if rollout.token_rewards is None else widened(rollout.token_rewards),
        values=None if rollout.values is None else widened(rollout.values),
    )


def without_groups(rollout: JudgedRollout, groups: Collection[int]) -> JudgedRollout:
    """The rollout with the completions of `groups` not valid: they enter neither loss nor counts."""
    out = torch.isin(rollout.groups, torch.tensor(sorted(groups), dtype=torch.long))
    return replace(rollout, valid=rollout.valid & ~out)
