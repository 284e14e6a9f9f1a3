"""Rewards that count only where another one says so."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.shaping.family import ComponentName, Shaping


class GatingStep(Shaping):
    """A step about one component of the reward."""

    component: ComponentName = Field(
        description="Component of spec.rewards; weight 0 there where this step alone is to count it."
    )

    @property
    def component_names(self) -> tuple[str, ...]:
        return (self.component,)


class ComponentGate(GatingStep, key="componentGate"):
    """Completions that fail a component, such as the format, get a fixed reward whatever else they earn."""

    threshold: float = Field(1.0, ge=-1000, le=1000, description="The least value that passes.")
    otherwise: float = Field(0.0, ge=-1000, le=1000, description="Reward of completions that do not pass.")


class Posterior(GatingStep, key="posterior"):
    """Posterior-GRPO: the reward of the reasoning process is added where the outcome is right and nowhere else (Fan et al. 2025, arXiv:2508.05170)."""

    weight: float = Field(1.0, ge=0, le=1000, description="Factor of the component.")


class Trust(GatingStep, key="trust"):
    """Trust-GRPO: the thinking reward is added with a weight that falls where wrong completions of the group earn more of it than right ones, and that decays over the steps (Fan et al. 2025, arXiv:2505.17018)."""

    weight: float = Field(0.3, ge=0, le=1000, description="Factor of the component at the first step.")
    annealing_steps: int = Field(
        500, ge=1, le=100_000_000, description="Optimizer steps in which the weight falls to 1/e."
    )


class SigmoidGate(GatingStep, key="sigmoidGate"):
    """A reward model beside a verifier: adds sigmoid(alpha r) - 1, which is less than the 1 of a right answer, so that every right completion stays above every wrong one (Yang et al. 2024, arXiv:2409.12122)."""

    alpha: float = Field(0.5, gt=0, le=1000, description="Factor of the reward model's score.")
