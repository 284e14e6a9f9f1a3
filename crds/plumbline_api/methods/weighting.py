"""How much each pair of a step counts, given what the policy thinks of its completions."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Choice, Family

Alignment = Literal["sampled", "greedy", "none"]


class PairWeighting(Family):
    """A factor of each pair's loss that follows from the policy's token probabilities and carries no gradient."""

    needs_tokens: ClassVar[bool] = False
    """Whether weights are made from single tokens' log-probabilities."""


class NoWeighting(PairWeighting, key="none"):
    """Every pair counts the same."""


class Wpo(PairWeighting, key="wpo"):
    """Weighted preference optimization: pairs count by how probable both completions are under the policy now, so that off-policy data weighs as if it were sampled (Zhou et al. 2024, arXiv:2406.11827, eq. 2)."""

    needs_tokens = True

    alignment: Alignment = Field(
        "sampled",
        description="What a token's probability is divided by: the expected probability of a sampled token (sampled), the probability of the likeliest token (greedy), or 1 (none).",
    )


class PairWeightingChoice(Choice, family=PairWeighting):
    """How much each pair counts: exactly one weighting."""
