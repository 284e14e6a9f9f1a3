"""Objectives that also learn from groups whose completions all end alike."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from plumbline_api.methods.policy.consistency import Copo
from plumbline_trainer.objectives.policy.clipped import clipped_surrogate
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout


@implements(Copo)
def copo(parameters: Copo, tokens: PolicyTokens) -> TokenLosses:
    """v L(A) + (1 - v) L(A_global) of every token, L the clipped surrogate (arXiv:2508.04138).

    A is the advantage within the group, A_global and v are those of `consistency`. In a group whose completions all
    end alike A is 0 and v is 0: all of them are pushed up where the prompt went better than the others of the rollout,
    and down where it went worse.
    """
    local, metrics = clipped_surrogate(parameters, tokens, tokens.ratio)
    overall = tokens.prepared["global_advantages"].to(tokens.logprobs)[:, None].expand(tokens.mask.shape)
    of_prompts, _ = clipped_surrogate(parameters, replace(tokens, advantages=overall), tokens.ratio)
    share = tokens.prepared["local_share"].to(tokens.logprobs)[:, None]
    losses = share * local + (1 - share) * of_prompts
    return tokens.inside(losses), {**metrics, "local_share": Metric.mean_of(share)}


@PREPARATIONS.implements(Copo)
def consistency(parameters: Copo, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """`global_advantages` and `local_share`, [N], the same for all completions of a prompt.

    With p the mean reward of a prompt's n completions and H the entropy of their answers in bits, the prompt's value is
    p, or p (1 - H (1 - 1/n) / log2 n) with `discount_disagreement`: at n different answers p/n is left. Its advantage
    is the value less the mean over the rollout's prompts, divided by their sample standard deviation plus epsilon. The
    share of the loss within the group is sigmoid(sharpness (H - threshold)), and 0 in a group without any difference
    in rewards. Invalid completions are left out.
    """
    groups = [torch.nonzero(rollout.valid & (rollout.groups == group))[:, 0] for group in rollout.groups.unique()]
    groups = [members for members in groups if len(members)]
    values, shares = advantages.new_zeros(len(groups)), advantages.new_zeros(len(groups))
    for number, members in enumerate(groups):
        rewards = rollout.rewards[members]
        entropy = entropy_in_bits(answers(parameters, rollout, members))
        values[number] = rewards.mean()
        if parameters.discount_disagreement and len(members) > 1:
            values[number] *= 1 - entropy * (1 - 1 / len(members)) / math.log2(len(members))
        if rewards.max() > rewards.min():
            shares[number] = torch.sigmoid(
                values.new_tensor(parameters.sharpness * (entropy - parameters.entropy_threshold))
            )
    compared = torch.zeros_like(values)
    if len(groups) > 1:
        compared = (values - values.mean()) / (values.std() + parameters.epsilon)
    global_advantages, local_share = torch.zeros_like(advantages[:, 0]), torch.zeros_like(advantages[:, 0])
    for number, members in enumerate(groups):
        global_advantages[members], local_share[members] = compared[number], shares[number]
    return {"global_advantages": global_advantages, "local_share": local_share}


def answers(parameters: Copo, rollout: JudgedRollout, members: Tensor) -> list[Hashable]:
    """What tells the outcomes of these completions apart: the extracted answer (None without one), or the reward."""
    if parameters.answer is None:
        return list(rollout.rewards[members].tolist())
    pattern = re.compile(parameters.answer, re.DOTALL)
    found: list[Hashable] = []
    for member in members.tolist():
        matches = list(pattern.finditer(rollout.texts[member]))
        found.append(matches[-1].group(1 if pattern.groups else 0).strip() if matches else None)
    return found


def entropy_in_bits(outcomes: list[Hashable]) -> float:
    """The entropy of the empirical distribution of `outcomes`, in bits; 0 for fewer than two."""
    shares = [count / len(outcomes) for count in Counter(outcomes).values()]
    return -sum(share * math.log2(share) for share in shares)
