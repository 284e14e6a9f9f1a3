"""What every policy objective sees, and what it returns.

    @implements(Grpo)
    def grpo(parameters: Grpo, tokens: PolicyTokens) -> TokenLosses: ...

An objective returns the loss of every sampled token; how these become one loss is the aggregation's business, so that
penalties and corrections of single tokens are the same for every objective. A loss of a whole completion is written to
each of its tokens: under the `sequenceMean` aggregation, which such objectives declare, it counts once.

Tensors are [B, T]: B completions of a micro-batch, T tokens. Positions outside `mask` are ignored whatever they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from plumbline_trainer.reporting.metrics import Metric

LARGEST_LOG_RATIO = 20.0
"""Log-ratios are cut off here before they are exponentiated: far outside of what any objective trusts, and early enough
that no float32 overflows."""


@dataclass(frozen=True)
class PolicyTokens:
    """A micro-batch of completions as an objective sees it."""

    logprobs: Tensor
    """[B, T] under the policy, at the sampling temperature; carries the gradient."""

    mask: Tensor
    """[B, T] bool: true at tokens of the completion."""

    advantages: Tensor
    """[B, T] float32, constant along a completion where the estimator gives one advantage a completion."""

    old_logprobs: Tensor | None = None
    """[B, T] under the policy at the start of this rollout's updates, as the trainer computes them (PPO's proximal
    policy); None where that is the policy as it is now, so that every ratio is 1."""

    sampled_logprobs: Tensor | None = None
    """[B, T] under the policy that sampled (the behaviour policy), as the sampler computed them."""

    reference_logprobs: Tensor | None = None
    """[B, T] under the frozen reference; None where nothing compares with it."""

    entropy: Tensor | None = None
    """[B, T] of the policy's distribution over the vocabulary at each token, with gradient; None where not needed."""

    success_logits: Tensor | None = None
    """[B, T] log-odds that a completion succeeds after each token, with gradient; None where nothing predicts it."""
    values: Tensor | None = None
    """[B, T] of the critic for the state before each token, with gradient; None where no objective learns them."""

    gaps: Tensor | None = None
    """[B, T] how far the token's logit is below the largest of its position, with gradient; None as for `values`."""

    reference_gaps: Tensor | None = None
    """[B, T] the same of the token that the reference would write there greedily, without gradient."""

    rewards: Tensor | None = None
    """[B] after shaping."""

    groups: Tensor | None = None
    """[B] int64: which completions answer the same prompt."""

    prepared: Mapping[str, Tensor] = field(default_factory=dict)
    """What the objective's preparation computed from the whole rollout, by name: [B] or [B, T]."""

    @property
    def proximal_logprobs(self) -> Tensor:
        """[B, T] under the policy before this rollout's updates, without gradient: `old_logprobs`, or the present
        ones where that policy is the present one."""
        return self.logprobs.detach() if self.old_logprobs is None else self.old_logprobs

    @property
    def log_ratio(self) -> Tensor:
        """[B, T] log of the probability ratio of the policy to the one before this rollout's updates; 0 outside."""
        return self.inside(self.logprobs - self.proximal_logprobs)

    @property
    def ratio(self) -> Tensor:
        """[B, T] probability ratio of the policy to the one before this rollout's updates; 1 outside."""
        return self.log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()

    @property
    def lengths(self) -> Tensor:
        """[B, 1] tokens of each completion, at least 1, in the type of `logprobs`."""
        return self.mask.sum(dim=1, keepdim=True).clamp(min=1).to(self.logprobs.dtype)

    def prepared_as(self, name: str) -> Tensor:
        """[B, T], or [B, 1] where the preparation gave one number a completion, in the type of `logprobs`; 0 outside.

        Raises `ValueError` if nothing of that name was prepared.
        """
        if name not in self.prepared:
            raise ValueError(f"{name!r} was not prepared from the rollout")
        values = self.prepared[name].to(self.logprobs.dtype)
        return values[:, None] if values.dim() == 1 else self.inside(values)

    def inside(self, values: Tensor) -> Tensor:
        """`values` [B, T] or [B, 1] at tokens of completions, 0 elsewhere: [B, T]."""
        return torch.where(self.mask, values, 0.0)

    def sum_of(self, values: Tensor) -> Tensor:
        """[B, 1] sum of `values` [B, T] over each completion."""
        return self.inside(values).sum(dim=1, keepdim=True)

    def mean_of(self, values: Tensor) -> Tensor:
        """[B, 1] mean of `values` [B, T] over each completion."""
        return self.sum_of(values) / self.lengths

    def rows(self, index: Tensor) -> PolicyTokens:
        """The completions of `index` (int64 [n] or bool [B])."""

        def of(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        return replace(
            self,
            logprobs=self.logprobs[index],
            mask=self.mask[index],
            advantages=self.advantages[index],
            old_logprobs=of(self.old_logprobs),
            sampled_logprobs=of(self.sampled_logprobs),
            reference_logprobs=of(self.reference_logprobs),
            entropy=of(self.entropy),
            success_logits=of(self.success_logits),
            values=of(self.values),
            gaps=of(self.gaps),
            reference_gaps=of(self.reference_gaps),
            rewards=of(self.rewards),
            groups=of(self.groups),
            prepared={name: values[index] for name, values in self.prepared.items()},
        )


@dataclass(frozen=True)
class StepCounts:
    """What losses are divided by: known before the first micro-batch, the same on every rank."""

    sequences: float
    """Completions with a reward in this step, over all ranks; those without signal count as well."""

    tokens: float
    """Tokens of these completions."""

    max_completion_tokens: int
    """The longest completion that the job allows."""


TokenLosses = tuple[Tensor, dict[str, Metric]]
"""Losses [B, T] to be minimised, 0 outside the mask and differentiable, and metrics of the micro-batch."""

PolicyLoss = Callable[[Any, PolicyTokens], TokenLosses]
"""(parameters, tokens) -> losses and metrics: the implementation of an objective."""
