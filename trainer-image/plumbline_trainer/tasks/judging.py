"""From the scores of this rank's completions to the judged rollout of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.rewards.scoring import Scores
from plumbline_trainer.rollout.engine import Completion
from plumbline_trainer.rollout.experience import padded
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.tasks.rlvr_metrics import correct


def judged_rollout(
    spec: RLVRJobSpec,
    scores: Scores,
    completions: Sequence[Completion],
    slots: Sequence[int],
    step: int,
    steps: int,
) -> JudgedRollout:
    """One rank's completions with their rewards; `slots` are the places of their prompts in the rollout."""
    logprobs = padded([torch.tensor(completion.logprobs) for completion in completions])
    assert logprobs is not None
    return JudgedRollout(
        rewards=scores.totals,
        groups=torch.tensor(slots),
        valid=scores.valid,
        lengths=torch.tensor([len(completion.tokens) for completion in completions]),
        correct=correct(spec, scores),
        truncated=torch.tensor([completion.finish == "length" for completion in completions]),
        logprobs=logprobs,
        components=scores.components,
        step=step,
        steps=steps,
        max_completion_tokens=spec.training.max_completion_tokens,
    )


def gathered(ranks: Ranks, own: JudgedRollout) -> tuple[JudgedRollout, slice]:
    """The completions of all ranks, rank after rank, and where this rank's own are among them."""
    if ranks.alone:
        return own, slice(None)
    parts = ranks.gather(own)
    start = sum(len(part.rewards) for part in parts[: ranks.rank])
    everyone = replace(
        own, **{name.name: _joined([getattr(part, name.name) for part in parts]) for name in fields(own)}
    )
    return everyone, slice(start, start + len(own.rewards))


def _joined(values: Sequence[Any]) -> Any:
    """One value from those of all ranks: tensors and lists end to end, by key in a mapping; else all are the same."""
    first = values[0]
    if isinstance(first, Tensor):
        if first.dim() == 1:
            return torch.cat(list(values))
        width = max(value.shape[1] for value in values)
        return torch.cat([pad(value, (0, width - value.shape[1])) for value in values])
    if isinstance(first, dict):
        return {key: _joined([value[key] for value in values]) for key in first}
    if isinstance(first, (list, tuple)):
        return [item for value in values for item in value]
    return first
