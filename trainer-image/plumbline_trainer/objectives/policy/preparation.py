"""What an objective computes once from a whole rollout, before its first update.

    @PREPARATIONS.implements(KlCov)
    def high_covariance(parameters: KlCov, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]: ...

A statistic over a rollout - a quantile, a group's normalizer, a random choice of tokens - would depend on the split if
an objective took it from its micro-batch. A preparation sees the completions of all ranks and gives one number a
completion, [N], or a token, [N, T]; the objective finds those of its micro-batch as `PolicyTokens.prepared[name]`,
[B] or [B, T]. They are the same in every update on the rollout and carry no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_trainer.registry import Registry
from plumbline_trainer.rollout.judged import JudgedRollout

PROMPT_WEIGHT = "prompt_weight"
"""Under this name of `PolicyTokens.prepared`, [B], the loss finds factors of completions, under which prompts with
more samples do not weigh more."""

Preparation = Callable[[Any, JudgedRollout, Tensor], dict[str, Tensor]]
"""(parameters, rollout of N completions, advantages [N, T]) -> tensors [N] or [N, T] by name."""

PREPARATIONS: Registry[Preparation] = Registry(PolicyObjective)
"""The preparations of those objectives that need one."""


def prepared(objective: PolicyObjective, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """What `objective` needs of the whole rollout: tensors [N] or [N, T] by name, empty for one without preparation.

    `advantages` are float64 [N], one a completion, or [N, T]; a preparation sees them with 0 outside the tokens of
    completions. Raises `ValueError` if a preparation returns a tensor of another shape.
    """
    prepare = PREPARATIONS.find(objective)
    if prepare is None:
        return {}
    mask = rollout.mask
    by_token = advantages if advantages.dim() == 2 else advantages[:, None].expand(mask.shape)
    tensors = prepare(objective, rollout, by_token.where(mask, by_token.new_zeros(())))
    for name, values in tensors.items():
        if values.shape not in (mask.shape, mask.shape[:1]):
            raise ValueError(f"the preparation of {objective.member_key} gives {name} of shape {list(values.shape)}")
    return tensors


def prepared_for(tensors: Mapping[str, Tensor], place: int, length: int) -> dict[str, Tensor]:
    """What `prepared` gives for the completion at `place`, of `length` tokens: float32 [] or [T] by name, copies."""
    return {
        name: (values[place, :length] if values.dim() == 2 else values[place]).float().clone()
        for name, values in tensors.items()
    }
