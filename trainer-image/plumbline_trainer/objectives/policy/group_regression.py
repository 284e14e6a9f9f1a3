"""Objectives that fit the implicit rewards of a group to its actual ones."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.group_regression import Gvpo
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Gvpo)
def gvpo(parameters: Gvpo, tokens: PolicyTokens) -> TokenLosses:
    """n/(n-1) (beta (h - mean h) - (R - mean R))^2 / (2 beta) of every completion, means over its group of n.

    h = log pi(y) / pi_old(y) of the whole completion and R its reward (Zhang et al. 2025, arXiv:2504.19599). The policy
    that maximises E[R] - beta KL(pi || pi_old) has R = beta h + beta log Z of the prompt; centring removes log Z, so
    that policy makes every term 0, whatever the completions were drawn from. As centred values add up to 0, the
    gradient by log pi(y_i) is -(n/(n-1)) ((R_i - mean R) - beta (h_i - mean h)); averaged over completions that is the
    paper's 1/(n-1) of a group's sum, averaged over prompts. A group of one has nothing to compare and adds 0. Raises
    `ValueError` without rewards or groups.
    """
    if tokens.rewards is None or tokens.groups is None:
        raise ValueError("gvpo needs rewards and groups")
    log_ratio = tokens.log_ratio.sum(dim=1)
    implicit, size = _centred(log_ratio, tokens.groups)
    actual, _ = _centred(tokens.rewards.to(log_ratio), tokens.groups)
    residual = parameters.beta * implicit - actual
    losses = size / (size - 1).clamp(min=1) * residual.square() / (2 * parameters.beta)
    metrics = {"log_ratio": Metric.mean_of(log_ratio), "residual": Metric.mean_of(residual.abs())}
    return torch.where(tokens.mask, losses[:, None].expand(tokens.mask.shape), 0.0), metrics


def _centred(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """`values` [B] less their mean in the group, and the size of each one's group."""
    _, index = groups.unique(return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    size = torch.bincount(index, minlength=count).to(values)[index]
    totals = values.new_zeros(count).index_add(0, index, values)[index]
    return values - totals / size, size
