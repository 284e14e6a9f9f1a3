"""Learning again from samples of earlier rollouts."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.exploration.family import Replay


class ReplayBuffer(Replay):
    """Parameters of every replay; not a method itself."""

    capacity: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Most samples that are kept, in checkpoints too; the lowest priority goes.",
    )
    max_age: int = Field(
        8, ge=1, le=100_000, description="Rollouts after which a sample is forgotten: ratios drift with its age."
    )


class Selective(ReplayBuffer, key="selective"):
    """Selective sample replay: as many samples as had no advantage in this rollout are replaced by earlier ones, drawn with a probability that grows with the absolute advantage, |A|^alpha ("VL-Rethinker: Incentivizing Self-Reflection of Vision-Language Models with Reinforcement Learning", Wang et al. 2025, arXiv:2504.08837)."""

    alpha: float = Field(1.0, ge=0, le=10, description="Exponent of the absolute advantage; 0 draws all alike.")


class PossibilityPassRate(ReplayBuffer, key="possibilityPassRate"):
    """PPER: earlier samples, failed ones too, are drawn in proportion to P2Value = alpha * possibility + (1 - alpha) * pass rate ("Enhancing LLM Agents for Code Generation with Possibility and Pass-rate Prioritized Experience Replay", Chen et al. 2024, arXiv:2410.12236). The possibility is the probability of a token of the sample, as a geometric mean; the pass rate is the reward, between 0 and 1."""

    alpha: float = Field(0.5, ge=0, le=1, description="Weight of the possibility against the pass rate.")
    share: float = Field(
        0.25, gt=0, le=4, description="Replayed samples in relation to those that the rollout learns from."
    )
