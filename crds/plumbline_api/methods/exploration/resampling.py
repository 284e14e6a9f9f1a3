"""Further samples after the first ones are judged: more of hard prompts, or other prompts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.exploration.family import Resampling


class DifficultyAdaptive(Resampling, key="dars"):
    """DARS: prompts that less than half of the first samples solve get more of them, so that the sum of their absolute advantages makes up for their difficulty ("Depth-Breadth Synergy in RLVR: Unlocking LLM Reasoning Gains with Adaptive Exploration", Yang et al. 2025, arXiv:2508.13755)."""

    schedule: Literal["equalTreatment", "hardnessWeighted"] = Field(
        "equalTreatment",
        description="equalTreatment gives every hard prompt the summed absolute advantage of one with pass rate 1/2; hardnessWeighted gives 2 (1 - pass rate) times that.",
    )
    max_samples: int = Field(
        32, ge=2, le=4096, description="Most samples of one prompt, the first ones included; what an unsolved one gets."
    )


class DynamicSampling(Resampling, key="dynamicSampling"):
    """Prompts whose samples all have the same reward have no advantage and are replaced by other prompts, again and again, so that every group of a rollout teaches something (DAPO; Yu et al. 2025, arXiv:2503.14476, sec. 3.2)."""

    max_attempts: int = Field(
        3, ge=1, le=64, description="Rounds of replacing; what then still has no signal stays and is skipped."
    )
