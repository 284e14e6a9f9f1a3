"""Policies that are tables of logits, where optima and gradients are known by enumeration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.objectives.registry import implementation_of


def probabilities(*values: float) -> Tensor:
    """A distribution, float64."""
    return torch.tensor(values, dtype=torch.float64)


def every_action(logits: Tensor, old: Tensor, advantages: Tensor, **more: Any) -> PolicyTokens:
    """One completion of one token for each action: its log-probability under softmax(`logits`) and under `old` [A]."""
    return PolicyTokens(
        logits.log_softmax(0)[:, None],
        torch.ones(len(old), 1, dtype=torch.bool),
        advantages[:, None],
        old_logprobs=old.log()[:, None],
        sampled_logprobs=old.log()[:, None],
        **more,
    )


def expected_loss(parameters: Any, batch: PolicyTokens, old: Tensor) -> Tensor:
    """The mean loss of an action drawn from `old`, by enumeration."""
    losses, _ = implementation_of(parameters)(parameters, batch)
    return (old[:, None] * losses).sum()


def minimize(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 200) -> Tensor:
    """The logits at which `loss` is least, from `start`."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=steps, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(logits)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach()


def tilted(old: Tensor, gains: Tensor) -> Tensor:
    """old x exp(gains) / Z."""
    return (old.log() + gains).softmax(0)
