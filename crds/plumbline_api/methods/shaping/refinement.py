"""Rewards for improving an own draft."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.shaping.family import ComponentName, Shaping


class RefinementGain(Shaping, key="refinementGain"):
    """Refinement-aware reward: what each round adds to the score of the round before, so that repeating a good draft earns nothing and spoiling it costs (AvR; Zhang et al. 2025, arXiv:2506.06009)."""

    rounds: list[ComponentName] = Field(
        min_length=2,
        max_length=16,
        description="Components of spec.rewards that score the draft and each revision, in order; weight 0 there.",
    )
    weight: float = Field(1.0, ge=0, le=1000, description="Factor of the gains.")
    discount: float = Field(1.0, gt=0, le=1, description="A gain counts this much less with each round.")
    final_weight: float = Field(0.0, ge=0, le=1000, description="Factor of the score of the last round.")

    @property
    def component_names(self) -> tuple[str, ...]:
        return tuple(self.rounds)
