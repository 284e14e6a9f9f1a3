"""Samples for each prompt, so that the gradient varies least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.exploration.budget import GradientVariance
from plumbline_trainer.exploration.registry import BUDGETS
from plumbline_trainer.rollout.judged import JudgedRollout


def allocation_weights(acceptance: Tensor, gradient: Tensor, alpha: float, beta: float) -> Tensor:
    """G / sqrt(p + alpha / p^(beta - 1)) of each prompt; 0 at p = 0 (Yao et al. 2025, arXiv:2505.02391).

    `acceptance` p and `gradient` G are float64 [P]. The gradient of prompt i from n_i samples, of which the accepted
    ones count, g_i = 1 / (n_i p_i) sum over accepted y of grad log pi(y), has a variance of at most G_i^2 / (n_i p_i),
    where G_i^2 is the mean of |grad log pi(y)|^2 over accepted y. Least sum under sum n_i = n: n_i proportional to
    G_i / sqrt(p_i). The term with alpha bends that down where p is so small that samples are wasted.
    """
    positive = acceptance > 0
    safe = torch.where(positive, acceptance, 1.0)
    return torch.where(positive, gradient / (safe + alpha / safe ** (beta - 1)).sqrt(), 0.0)


def squared_gradients(rollout: JudgedRollout) -> Tensor:
    """[N] float64: sum over tokens of 1 - pi(y_t), which stands for |grad log pi(y)|^2.

    The gradient of log pi(y_t) with respect to the logits at t is the unit vector of y_t minus the probabilities; its
    square is 1 - 2 pi(y_t) + sum_v pi_v^2, with the mean 1 - sum_v pi_v^2 over y_t ~ pi. The mean of 1 - pi(y_t) is the
    same. Logits at different positions are different variables, so squares add up over t. What the network does between
    logits and parameters is taken as alike for all prompts.
    """
    missing = (1 - rollout.logprobs.double().exp()).clamp(min=0)
    return torch.where(rollout.mask, missing, 0.0).sum(dim=1)


def allocate(weights: Tensor, total: int, minimum: int) -> list[int]:
    """Whole numbers of at least `minimum` that add up to `total`, as near as can be in proportion to `weights` [P].

    Prompts whose share is below the minimum get it, and the others share what is left; then the largest remainders are
    rounded up, the first of equal ones. All alike where every weight is 0. Raises `ValueError` where `total` is less
    than the minima together.
    """
    count = len(weights)
    if total < count * minimum:
        raise ValueError(f"{total} samples are less than {minimum} for each of {count} prompts")
    weights = weights.double() if bool((weights > 0).any()) else torch.ones(count, dtype=torch.float64)
    low = torch.zeros(count, dtype=torch.bool)
    while True:
        free = torch.where(low, 0.0, weights)
        left = total - minimum * int(low.sum())
        shares = torch.where(low, float(minimum), left * free / free.sum().clamp(min=torch.finfo(torch.float64).tiny))
        below = ~low & (shares < minimum)
        if not bool(below.any()):
            break
        low |= below
    whole = shares.floor().long()
    whole[low] = minimum
    remainders = torch.where(low, -1.0, shares - whole)
    for index in remainders.argsort(descending=True, stable=True)[: total - int(whole.sum())]:
        whole[index] += 1
    return [int(number) for number in whole]


def prompt_weights(rollout: JudgedRollout) -> Tensor:
    """[N] float64: factors on losses under which every prompt weighs the same in a mean over completions.

    With n completions that count, n_g of them of a completion's own group, and P groups: n / (P n_g). Their mean is 1.
    """
    ids, index = torch.unique(rollout.groups, return_inverse=True)
    sizes = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, index, rollout.valid.double())
    factors = rollout.valid.sum() / ((sizes > 0).sum() * sizes.clamp(min=1))
    return torch.where(rollout.valid, factors[index], 0.0)


@BUDGETS.implements(GradientVariance)
class GradientVarianceBudget:
    """Budgets from what earlier rollouts say of a prompt: acceptance rate and squared gradient of what was accepted.

    Both are quotients of sums in which older rollouts count less, by a factor `memory` a rollout of the prompt. A
    prompt that was never sampled has the mean weight of those that were, which is the even share.
    """

    def __init__(self, parameters: GradientVariance, rows: int) -> None:
        self._parameters = parameters
        self._sums = torch.zeros(rows, 3, dtype=torch.float64)
        """Of each row: samples, accepted ones, and the squared gradients of the accepted ones."""

    def budgets(self, rows: Sequence[int], total: int) -> list[int]:
        samples, accepted, squares = self._sums[list(rows)].unbind(dim=1)
        seen = samples > 0
        acceptance = accepted / samples.clamp(min=torch.finfo(torch.float64).tiny)
        gradient = (squares / torch.where(accepted > 0, accepted, 1.0)).sqrt()
        weights = allocation_weights(acceptance, gradient, self._parameters.alpha, self._parameters.beta)
        if bool(seen.any()):
            weights = torch.where(seen, weights, weights[seen].mean())
        return allocate(weights, total, self._parameters.minimum)

    def observe(self, rows: Sequence[int], rollout: JudgedRollout) -> None:
        kept = rollout.valid
        accepted = (kept & rollout.correct).double()
        new = torch.stack([kept.double(), accepted, accepted * squared_gradients(rollout)], dim=1)
        of_row = torch.tensor(list(rows), dtype=torch.long)[rollout.groups]
        sums = torch.zeros_like(self._sums).index_add_(0, of_row, new)
        touched = sums[:, 0] > 0
        self._sums[touched] = self._parameters.memory * self._sums[touched] + sums[touched]

    def state_dict(self) -> dict[str, Any]:
        touched = torch.nonzero(self._sums[:, 0] > 0).flatten()
        return {"rows": touched.tolist(), "sums": self._sums[touched].tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums.zero_()
        if state["rows"]:
            self._sums[state["rows"]] = torch.tensor(state["sums"], dtype=torch.float64)
