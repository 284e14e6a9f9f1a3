"""Learning from some of the samples only."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.exploration.family import SampleSelection


class ProcessConsistency(SampleSelection, key="prof"):
    """PROF: of each prompt's samples, correct ones with a low and wrong ones with a high process score are left out, more of whichever there are more of; the process score itself enters no reward ("Beyond Correctness: Harmonizing Process and Outcome Rewards through RL Training", Ye et al. 2025, arXiv:2509.03403)."""

    component_field = "component"

    component: str = Field(
        min_length=1,
        max_length=40,
        description="Name of the reward component with the process score, usually one of weight 0.",
    )
    keep: int = Field(4, ge=2, le=4096, description="Samples of each prompt that are learnt from.")
    balance: bool = Field(
        True,
        description="Whether correct and wrong ones are evened out as far as there are enough; false keeps their proportion.",
    )


class MaxVariance(SampleSelection, key="maxVariance"):
    """PODS: of each prompt's samples those are learnt from whose rewards have the largest variance, which are always some of the lowest and some of the highest ("Not All Rollouts are Useful: Down-Sampling Rollouts in LLM Reinforcement Learning", Xu et al. 2025, arXiv:2504.13818)."""

    keep: int = Field(4, ge=2, le=4096, description="Samples of each prompt that are learnt from.")
