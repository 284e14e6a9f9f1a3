"""How the losses of sampled tokens become the loss of a step."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.base import Choice, Family


class PolicyAggregation(Family):
    """How token losses become one loss. Counts are those of the whole step, however it is split."""


class SequenceMean(PolicyAggregation, key="sequenceMean"):
    """Mean over completions of the mean over each one's tokens, so that a token of a short completion weighs more (GRPO; Shao et al. 2024, arXiv:2402.03300, eq. 3)."""


class TokenMean(PolicyAggregation, key="tokenMean"):
    """Mean over all tokens of the step, so that a long completion weighs more (DAPO; Yu et al. 2025, arXiv:2503.14476, eq. 8)."""


class SequenceSum(PolicyAggregation, key="sequenceSum"):
    """Mean over completions of the sum over each one's tokens, the gradient of the sequence's likelihood (REINFORCE; Ahmadian et al. 2024, arXiv:2402.14740, eq. 6)."""


class Constant(PolicyAggregation, key="constant"):
    """Mean over completions of the sum over each one's tokens divided by a constant, so that length has no say in what a token weighs (Liu et al. 2025, arXiv:2503.20783, sec. 3)."""

    tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="The constant; default: training.maxCompletionTokens."
    )


class PolicyAggregationChoice(Choice, family=PolicyAggregation):
    """How token losses become one loss: exactly one way."""
