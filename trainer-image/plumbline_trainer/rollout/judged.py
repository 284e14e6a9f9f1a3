"""A whole rollout with its rewards: what shaping, advantages and an objective's preparation see.

It covers the completions of all ranks, so that a statistic of the rollout is the same on every rank and does not
depend on how prompts were shared out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class JudgedRollout:
    """N completions of one rollout in order of prompt and sample; T is the length of the longest."""

    rewards: Tensor
    """[N] float64: the weighted sum of the components; 0 where not valid."""

    groups: Tensor
    """[N] int64: which completions answer the same prompt; any ids, in any order."""

    valid: Tensor
    """[N] bool: false where no reward exists because a verifier failed."""

    lengths: Tensor
    """[N] int64: tokens."""

    correct: Tensor
    """[N] bool: whether every component that compares with the answer gives at least 1."""

    truncated: Tensor
    """[N] bool: whether the completion was cut off at the limit."""

    logprobs: Tensor
    """[N, T] float32 under the policy that sampled, as the sampler computed them; 0 outside."""

    components: Mapping[str, Tensor] = field(default_factory=dict)
    """[N] float64 for each component of the reward by its name; NaN where it failed."""

    texts: Sequence[str] = ()
    """The completions as text."""

    columns: Sequence[Mapping[str, Any]] = ()
    """For each completion its prompt's row of data, by column."""

    step: int = 0
    """Optimizer steps before this rollout."""

    steps: int = 1
    """Optimizer steps of the whole job."""

    max_completion_tokens: int = 0
    """The longest completion that the job allows."""

    token_rewards: Tensor | None = None
    """[N, T] float64: rewards of single tokens that `rewards` does not hold, such as a KL penalty, or a token's share
    of what a part of the text earned."""

    token_credits: Tensor | None = None
    """[N, T] float64: what the parts of the text that a token writes earned, undivided: what estimators take
    for `token_rewards` that ignore those; None where no part earned anything."""

    values: Tensor | None = None
    """[N, T] float64: the critic's value before each token; None without a critic."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """The weight of each component in the reward by its name."""

    greedy_rewards: Tensor | None = None
    """[N] float64: the reward of the greedy completion of the same prompt, NaN where it failed; None where the
    estimator does not ask for it."""

    policy_logprobs: Tensor | None = None
    """[N, T] float32 under the policy as it is now, where `logprobs` may be those of an older one; None where the
    estimator does not ask for it."""

    guided: Tensor | None = None
    """[N] int64: so many of the first tokens were not the policy's own but guided; None where none were."""

    prefix_values: Tensor | None = None
    """[N, T] float64: the mean reward of completions that start from what stands before each token; NaN where none
    was sampled. None where the estimator does not ask for it."""

    @property
    def mask(self) -> Tensor:
        """[N, T] bool: true at tokens of the completions."""
        return torch.arange(self.logprobs.shape[1]) < self.lengths[:, None]

    @property
    def guided_lengths(self) -> Tensor:
        """[N] int64: guided tokens of each completion."""
        return torch.zeros_like(self.lengths) if self.guided is None else self.guided


def judged(
    rewards: Sequence[float] | Tensor,
    groups: Sequence[int] | Tensor,
    valid: Sequence[bool] | Tensor | None = None,
    lengths: Sequence[int] | Tensor | None = None,
    **more: Any,
) -> JudgedRollout:
    """A rollout from its rewards and groups; by default all are valid, one token long, and right at a reward of 1."""
    rewards = torch.as_tensor(rewards, dtype=torch.float64)
    count = len(rewards)
    lengths = torch.ones(count, dtype=torch.long) if lengths is None else torch.as_tensor(lengths, dtype=torch.long)
    longest = int(lengths.max()) if count else 0
    defaults = {
        "correct": rewards >= 1,
        "truncated": torch.zeros(count, dtype=torch.bool),
        "logprobs": torch.zeros(count, longest),
    }
    return JudgedRollout(
        rewards=rewards,
        groups=torch.as_tensor(groups, dtype=torch.long),
        valid=torch.ones(count, dtype=torch.bool) if valid is None else torch.as_tensor(valid, dtype=torch.bool),
        lengths=lengths,
        **{**defaults, **more},
    )
