"""What a policy-gradient objective says of itself besides its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from plumbline_api.base import Family

CENTRED: Mapping[str, Any] = {"groupRelative": {"normalize": "none"}}
"""The advantage R - mean R."""

WITHOUT_BASELINE: Mapping[str, Any] = {"none": {}}
"""The reward in place of an advantage."""


class PolicyObjective(Family):
    """The policy-gradient objective of an RLVR job: how advantages become a loss of each sampled token."""

    aggregation: ClassVar[str] = "sequenceMean"
    """The `policyAggregation` that the paper uses, by key: how token losses become one loss."""

    advantage: ClassVar[Mapping[str, Any]] = {"groupRelative": {}}
    """The `advantage` that the paper uses, as a spec has it; where it has a critic, the nearest one without."""

    strictly_on_policy: ClassVar[bool] = False
    """Whether each batch of completions may be used for one update only."""

    needs_reference: ClassVar[bool] = False
    """Whether it compares with the reference by itself, with or without a KL penalty."""

    regularizes_divergence: ClassVar[bool] = False
    """Whether a divergence is part of it, so that a KL penalty besides it is refused."""

    needs_entropy: ClassVar[bool] = False
    """Whether it uses the entropy of the policy's distribution at every token."""

    needs_whole_groups: ClassVar[bool] = False
    """Whether its loss compares completions of one prompt, which then share a pass."""

    uses_zero_advantages: ClassVar[bool] = False
    """Whether a completion with advantage 0 still has a gradient and must not be skipped."""

    learns_values: ClassVar[bool] = False
    """Whether its loss is one of values: those of a critic on the policy's own states, which it trains, and of tokens by
    their logits. It uses rewards and no advantages."""

    conditions_on_return: ClassVar[bool] = False
    """Whether prompts carry a label of the reward: the good one for sampling, each completion's own for the loss."""

    guides: ClassVar[bool] = False
    """Whether the model stays as it is, and a head beside it learns to guide its sampling."""

    @property
    def weighs_by_samples(self) -> bool:
        """Whether a prompt weighs more in the loss for having more samples, unless that is made up for."""
        return True
