"""All steps of a job, one after the other, on one rollout."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from plumbline_api.methods.shaping.family import Shaping
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Credit, Evidence, State


def apply_shaping(
    steps: Sequence[Shaping],
    rollout: JudgedRollout,
    states: Mapping[str, State],
    evidence: Evidence | None = None,
) -> tuple[JudgedRollout, dict[str, State], dict[str, Metric]]:
    """The rollout with shaped rewards, the states after it, and metrics.

    `states` is what the last call returned, or empty: one JSON object a step, by its name. Each step sees what the
    steps before it left. `shaping/<name>` is how much a step changed the reward of a completion on average;
    completions that it excluded are not counted. Raises `ValueError` where a step rewards single tokens and
    `evidence` does not say where tokens end.
    """
    evidence = evidence or Evidence()
    after: dict[str, State] = {}
    metrics: dict[str, Metric] = {}
    for name, parameters in zip(step_names(steps), steps, strict=True):
        shaped = SHAPINGS.of(parameters)(parameters, rollout, states.get(name, {}), evidence)
        valid = rollout.valid if shaped.valid is None else shaped.valid
        metrics[f"shaping/{name}"] = Metric.mean_of(torch.where(valid, shaped.rewards - rollout.rewards, 0.0), valid)
        metrics |= {f"shaping/{name}/{key}": metric for key, metric in shaped.metrics.items()}
        after[name] = shaped.state
        token_rewards, token_credits = _with_credits(rollout, shaped.credits, evidence)
        rollout = replace(
            rollout,
            rewards=torch.where(valid, shaped.rewards, 0.0),
            valid=valid,
            components={**rollout.components, **shaped.components},
            token_rewards=token_rewards,
            token_credits=token_credits,
        )
    return rollout, after, metrics


def held_out_metrics(steps: Sequence[Shaping], rollout: JudgedRollout) -> dict[str, Metric]:
    """What the steps that measure held-out completions say of them, under the names of `apply_shaping`."""
    return {
        f"shaping/{name}/{key}": metric
        for name, step in zip(step_names(steps), steps, strict=True)
        if step.measures_held_out and len(rollout.rewards)
        for key, metric in SHAPINGS.of(step)(step, rollout, {}, Evidence()).metrics.items()
    }


def step_names(steps: Sequence[Shaping]) -> list[str]:
    """The name of each step in states and metrics: its key, from its second use on with a number behind."""
    uses: Counter[str] = Counter()
    names = []
    for step in steps:
        key = step.member_key
        uses[key] += 1
        names.append(key if uses[key] == 1 else f"{key}_{uses[key]}")
    return names


def credited(advantages: Tensor, rollout: JudgedRollout) -> Tensor:
    """Advantages [N, T] float64 out of those of an estimator, [N] or [N, T], that ignores rewards of single tokens.

    What its part of the text earned, undivided, is added to the advantage of each token, as LC-R1 has it (Cheng et al.
    2025, arXiv:2506.14755): the part answers for itself, and neither a baseline nor a deviation of the group changes
    that. For a part z behind the text c with the reward r(z; c), the gradient of E_{z ~ pi(.|c)} r(z; c) is

        E[r(z; c) grad log pi(z|c)] = E[sum_t r(z; c) grad log pi(z_t|c, z_<t)],

    so that all of r, and not a token's share of it, stands with each of the part's tokens. That is the bonus of MRT (Qu
    et al. 2025, arXiv:2503.07572), sum_j E_{c_(j-1) ~ pi_old} E_{z_j ~ pi} r(z_j; c_(j-1)): what stands before a
    segment comes from the policy that sampled, and is not changed for the sake of a later segment's bonus.
    """
    by_token = advantages if advantages.dim() == 2 else advantages[:, None].expand(rollout.logprobs.shape)
    if rollout.token_credits is None:
        return torch.where(rollout.mask, by_token, 0.0)
    return torch.where(rollout.mask & rollout.valid[:, None], by_token + rollout.token_credits, 0.0)


def _with_credits(
    rollout: JudgedRollout, credits: Sequence[Credit], evidence: Evidence
) -> tuple[Tensor | None, Tensor | None]:
    """Token rewards and token credits [N, T] with those of one step; a part behind all tokens belongs to the last."""
    if not credits:
        return rollout.token_rewards, rollout.token_credits
    if evidence.token_ends is None:
        raise ValueError("rewards for parts of a text need the characters at which tokens end")
    empty = torch.zeros(rollout.logprobs.shape, dtype=torch.float64)
    shares = empty.clone() if rollout.token_rewards is None else rollout.token_rewards.clone()
    whole = empty if rollout.token_credits is None else rollout.token_credits.clone()
    for credit in credits:
        last = int(rollout.lengths[credit.completion]) - 1
        if last < 0 or not bool(rollout.valid[credit.completion]):
            continue
        ends = evidence.token_ends[credit.completion]
        first = min(bisect_right(ends, credit.start), last)
        behind = min(bisect_right(ends, credit.end - 1), last) + 1
        shares[credit.completion, first:behind] += credit.value / (behind - first)
        whole[credit.completion, first:behind] += credit.value
    return shares, whole
