"""Learning of values with a backup that stays with the initial greedy policy.

B-Coder ("B-Coder: Value-Based Deep Reinforcement Learning for Program Synthesis", Yu et al. 2023, arXiv:2310.03173). A
language model's logits l are advantages up to a scale:

    Q(s, a) = scale gap(s, a) + V(s)        gap(s, a) = l(s, a) - max_b l(s, b), never positive

so max_a Q = V, and the greedy policy of Q is the model's from the start. The conservative backup evaluates the greedy
policy mu of a frozen reference in place of improving on itself,

    target(s, a) = r + discount Q(s', mu(s'))        and r alone at the end of a completion,

which does not overestimate. Nothing here asks who wrote a completion: its fixed point is the same for samples of any
policy, and so importance ratios have no place. What it converges to is the best token now with mu ever after: one step
of policy improvement on the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.conservative_bellman import ConservativeBellman
from plumbline_trainer.advantages.recursions import token_rewards
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout

REWARDS = "token_rewards"
"""Name of the prepared tensor: [N, T], the reward of each token."""


@PREPARATIONS.implements(ConservativeBellman)
def rewards_of_tokens(parameters: ConservativeBellman, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """The reward of a completion at its last token, and those of single tokens where there are any."""
    return {REWARDS: token_rewards(rollout)}


@implements(ConservativeBellman)
def conservative_bellman(parameters: ConservativeBellman, tokens: PolicyTokens) -> TokenLosses:
    """(Q(s, a) - target)^2 / 2 of every token; the gradient reaches logits and values through Q(s, a) alone.

    Raises `ValueError` without values and gaps.
    """
    values, gaps, reference_gaps = tokens.values, tokens.gaps, tokens.reference_gaps
    if values is None or gaps is None or reference_gaps is None:
        raise ValueError("conservativeBellman needs values, gaps and the reference's gaps")
    values = tokens.inside(values)
    taken = parameters.scale * tokens.inside(gaps) + values
    followed = parameters.scale * tokens.inside(reference_gaps) + values
    targets = conservative_targets(tokens.prepared_as(REWARDS), followed, tokens.mask, parameters.discount)
    losses = tokens.inside((taken - targets).square() / 2)
    return losses, {
        "critic/squared_error": Metric.mean_of(2 * losses.detach(), tokens.mask),
        "critic/value": Metric.mean_of(values.detach(), tokens.mask),
        "critic/return": Metric.mean_of(targets, tokens.mask),
    }


def conservative_targets(rewards: Tensor, followed: Tensor, mask: Tensor, discount: float) -> Tensor:
    """r_t + discount Q(s_(t+1), mu(s_(t+1))) of every token [B, T], r_t alone at a completion's last; no gradient.

    `followed` [B, T] are Q(s_t, mu(s_t)) in the state before each token, mu the reference's greedy choice.
    """
    return rewards + discount * after(followed.detach(), mask)


def implied_rewards(taken: Tensor, state_values: Tensor, mask: Tensor, discount: float) -> Tensor:
    """Q(s, a) - discount max_a' Q(s', a') of every token [B, T]: the rewards that make a learnt Q optimal.

    `taken` [B, T] are Q of the tokens, `state_values` [B, T] the maxima V before them. For an exact optimal Q these are
    the rewards themselves; of a candidate program they say what the value function thinks of it.
    """
    return torch.where(mask, taken - discount * after(state_values, mask), 0.0)


def candidate_scores(parameters: ConservativeBellman, values: Tensor, gaps: Tensor, mask: Tensor) -> Tensor:
    """[B] summed implied rewards of each completion, from `values` and `gaps` [B, T]: of many samples of a prompt, the
    one with the largest is the one to keep."""
    taken = parameters.scale * gaps + values
    return implied_rewards(taken, values, mask, parameters.discount).sum(dim=1)


def after(values: Tensor, mask: Tensor) -> Tensor:
    """[B, T]: at every token what `values` [B, T] are at the next one, 0 at the last and outside `mask`."""
    shifted = torch.zeros_like(values)
    shifted[:, :-1] = torch.where(mask, values, 0.0)[:, 1:]
    return shifted
