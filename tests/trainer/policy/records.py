"""Micro-batches of completions from plain numbers, for the tests of policy objectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.loss import policy_loss
from plumbline_trainer.objectives.policy.preparation import prepared
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout


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
        success_logits=draw(rows, width).requires_grad_(),
        values=draw(rows, width).requires_grad_(),
        gaps=(-draw(rows, width).abs()).requires_grad_(),
        reference_gaps=-draw(rows, width).abs(),
        rewards=draw(rows),
        groups=torch.arange(rows) // 2,
    )


def rollout_of(batch: PolicyTokens) -> JudgedRollout:
    """The rollout that consists of this batch alone: a reward above 0 is right, every third completion is cut off."""
    assert batch.rewards is not None and batch.groups is not None and batch.sampled_logprobs is not None
    rows = len(batch.rewards)
    return JudgedRollout(
        rewards=batch.rewards,
        groups=batch.groups,
        valid=torch.ones(rows, dtype=torch.bool),
        lengths=batch.mask.sum(dim=1),
        correct=batch.rewards > 0,
        truncated=torch.arange(rows) % 3 == 2,
        logprobs=torch.where(batch.mask, batch.sampled_logprobs, 0.0),
        steps=10,
        max_completion_tokens=8,
    )


def with_preparation(parameters: PolicyObjective, batch: PolicyTokens) -> PolicyTokens:
    """The batch with what the objective prepares from it, as a rollout of its own."""
    return replace(batch, prepared=prepared(parameters, rollout_of(batch), batch.advantages))


def counts(batch: PolicyTokens, max_completion_tokens: int = 8) -> StepCounts:
    """The counts of a step that consists of this batch alone."""
    return StepCounts(float(batch.mask.shape[0]), float(batch.mask.sum()), max_completion_tokens)


def loss_of(
    parameters: PolicyObjective, batch: PolicyTokens, step: StepCounts | None = None, **parts: Any
) -> tuple[torch.Tensor, dict[str, Metric]]:
    """The loss of the batch, by default as a step of its own; `parts` are those of `policy_loss`."""
    return policy_loss(parameters, batch, step or counts(batch), **parts)
