"""Supervised objectives on solutions that the policy found itself.

With B the different right completions of a prompt and P(y) their probabilities, Ni et al. 2023 (arXiv:2205.14318, sec.
3) compare the losses

    MLE-Aug   -sum_B log P(y)                  gradient weights 1
    MML       -log sum_B P(y)                  gradient weights P(y) / sum_B P
    beta-MML  -(1/beta) log sum_B P(y)^beta    gradient weights P(y)^beta / sum_B P^beta

MML is content with the likeliest solution and makes it likelier still; a smaller beta evens the weights out. B may hold
beginnings of solutions, too, which have no end token: `tasks.kept_solutions` finds them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plumbline_api.methods.policy.own_solutions import (
    ExpertIteration,
    MarginalLikelihood,
    MleAugmented,
    OwnSolutions,
    ReturnConditioned,
)
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.search.program_states import solution_key

WEIGHT = "weight"
"""Name of the prepared tensor: [N], the weight of each completion."""


@PREPARATIONS.implements(ExpertIteration)
def imitated(parameters: ExpertIteration, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """1 for the first `per_prompt` different right completions of each prompt, 0 for all others."""
    return {WEIGHT: different_solutions(rollout, parameters.per_prompt, key=key_of(parameters)).double()}


@implements(ExpertIteration)
def expert_iteration(parameters: ExpertIteration, tokens: PolicyTokens) -> TokenLosses:
    """-log pi(y_t) of every token of the completions that are imitated; rewards only choose them."""
    return _likelihood(tokens)


@PREPARATIONS.implements(MleAugmented)
def solutions(parameters: MleAugmented, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """1 for every different right completion of each prompt, 0 for all others."""
    return {WEIGHT: different_solutions(rollout, key=key_of(parameters)).double()}


@implements(MleAugmented)
def mle_augmented(parameters: MleAugmented, tokens: PolicyTokens) -> TokenLosses:
    """-log pi(y_t) of every token of every different solution, summed over the solution."""
    return _likelihood(tokens)


@PREPARATIONS.implements(MarginalLikelihood)
def group_shares(parameters: MarginalLikelihood, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """n/b for each of the b different right completions of a prompt with n valid ones, 0 for all others.

    The b completions of a prompt together then weigh as much as its n do in a mean over completions.
    """
    chosen = different_solutions(rollout, key=key_of(parameters))
    same = rollout.groups[:, None] == rollout.groups[None, :]
    size = (same & rollout.valid[None, :]).sum(dim=1).double()
    among = (same & chosen[None, :]).sum(dim=1).clamp(min=1)
    return {WEIGHT: torch.where(chosen, size / among, 0.0)}


@implements(MarginalLikelihood)
def marginal_likelihood(parameters: MarginalLikelihood, tokens: PolicyTokens) -> TokenLosses:
    """-(1/beta) log sum_B P(y)^beta of the prompt, written to the tokens of its solutions B, times their share.

    Computed in logs. A prompt without a solution adds nothing. Raises `ValueError` without groups.
    """
    if tokens.groups is None:
        raise ValueError("marginalLikelihood needs groups")
    weight = tokens.prepared[WEIGHT].to(tokens.logprobs)
    likelihood = parameters.beta * tokens.sum_of(tokens.logprobs)[:, 0]
    together = (tokens.groups[:, None] == tokens.groups[None, :]) & (weight > 0)[None, :]
    alone = torch.eye(len(weight), dtype=torch.bool, device=weight.device)
    # a row without solutions sums over itself: its weight is 0, and the log of an empty sum has no gradient
    members = torch.where(together.any(dim=1, keepdim=True), together, alone)
    joint = torch.where(members, likelihood[None, :], -torch.inf).logsumexp(dim=1) / parameters.beta
    losses = -(weight * joint)[:, None]
    return tokens.inside(losses), {"solution_share": Metric.mean_of((weight > 0).float())}


@implements(ReturnConditioned)
def return_conditioned(parameters: ReturnConditioned, tokens: PolicyTokens) -> TokenLosses:
    """-log pi(y_t | label, x, y_<t) of every token, for log-probabilities behind the label of the completion's reward.

    The policy of a label is the posterior pi(y | x, label): with the good label it imitates the good completions only,
    and with the bad one it learns from the others what not to do.
    """
    losses = -tokens.inside(tokens.logprobs)
    return losses, {"likelihood_loss": Metric.mean_of(losses, tokens.mask)}


def key_of(parameters: OwnSolutions) -> Callable[[str], str]:
    """What tells solutions apart, by their texts: the text itself, or the program in it."""
    return str.strip if parameters.partial_solutions is None else solution_key


def different_solutions(
    rollout: JudgedRollout, most: int | None = None, key: Callable[[str], str] = str.strip
) -> Tensor:
    """[N] bool: the valid, right completions of each prompt, each `key` once and at most `most` of them, first come.

    Without texts all are different.
    """
    seen: set[tuple[int, str]] = set()
    count: dict[int, int] = {}
    chosen = torch.zeros(len(rollout.rewards), dtype=torch.bool)
    for place in torch.nonzero(rollout.valid & rollout.correct)[:, 0].tolist():
        group = int(rollout.groups[place])
        text = (group, key(rollout.texts[place]) if rollout.texts else str(place))
        if text in seen or (most is not None and count.get(group, 0) >= most):
            continue
        seen.add(text)
        count[group] = count.get(group, 0) + 1
        chosen[place] = True
    return chosen


def _likelihood(tokens: PolicyTokens) -> TokenLosses:
    weight = tokens.prepared[WEIGHT].to(tokens.logprobs)[:, None]
    return -weight * tokens.inside(tokens.logprobs), {"kept_share": Metric.mean_of((weight > 0).float())}
