"""Micro-batches of completions from plain numbers, for the tests of policy objectives."""

from __future__ import annotations

from typing import Any

import torch

from plumbline_api.methods.kl import KlPenalty
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.policy_aggregation import PolicyAggregation
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.loss import policy_loss
from plumbline_trainer.reporting.metrics import Metric


def tokens(
    logprobs: list[list[float]],
    advantages: list[Any],
    mask: list[list[bool]] | None = None,
    *,
    old: list[list[float]] | None = None,
    reference: list[list[float]] | None = None,
    **more: Any,
) -> PolicyTokens:
    """From lists; an advantage is a number a completion or a list of one a token."""

    def tensor(values: Any) -> torch.Tensor | None:
        return None if values is None else torch.tensor(values, dtype=torch.float64)

    current = torch.tensor(logprobs, dtype=torch.float64).requires_grad_()
    given = torch.tensor(advantages, dtype=torch.float64)
    return PolicyTokens(
        current,
        torch.ones(current.shape, dtype=torch.bool) if mask is None else torch.tensor(mask),
        given if given.dim() == 2 else given[:, None].expand(current.shape).clone(),
        old_logprobs=tensor(old),
        reference_logprobs=tensor(reference),
        **more,
    )


def random_tokens(rows: int = 6, width: int = 5, *, on_policy: bool = False, seed: int = 0) -> PolicyTokens:
    """Completions of different lengths in groups of two, with everything that an objective may ask for."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    logprobs = -draw(rows, width).abs()
    old = None if on_policy else logprobs.detach() + 0.3 * draw(rows, width)
    return PolicyTokens(
        logprobs.requires_grad_(),
        torch.arange(width) < lengths[:, None],
        draw(rows)[:, None].expand(rows, width).clone(),
        old_logprobs=old,
        sampled_logprobs=logprobs.detach() if old is None else old + 0.1 * draw(rows, width),
        reference_logprobs=logprobs.detach() + 0.3 * draw(rows, width),
        entropy=draw(rows, width).abs().requires_grad_(),
        rewards=draw(rows),
        groups=torch.arange(rows) // 2,
    )


def counts(batch: PolicyTokens, max_completion_tokens: int = 8) -> StepCounts:
    """The counts of a step that consists of this batch alone."""
    return StepCounts(float(batch.mask.shape[0]), float(batch.mask.sum()), max_completion_tokens)


def loss_of(
    parameters: PolicyObjective,
    batch: PolicyTokens,
    step: StepCounts | None = None,
    *,
    kl: KlPenalty | None = None,
    aggregation: PolicyAggregation | None = None,
) -> tuple[torch.Tensor, dict[str, Metric]]:
    """The loss of the batch, by default as a step of its own."""
    return policy_loss(parameters, batch, step or counts(batch), kl=kl, aggregation=aggregation)
