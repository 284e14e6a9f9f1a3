"""Objectives on pairs that see each log-ratio by itself: they say where chosen and rejected should stand, not only
how far apart."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.preference.direct import LogRatioObjective


class Nca(LogRatioObjective, key="nca"):
    """Noise contrastive alignment on pairs: the chosen completion's reward is held at a finite value, the rejected one's pushed down (Chen et al. 2024, arXiv:2402.05369)."""


class ApoZero(LogRatioObjective, key="apoZero"):
    """Anchored preference optimization, zero: chosen completions become more likely than under the reference, rejected ones less; for data whose chosen completions are better than the model (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7)."""


class ApoDown(LogRatioObjective, key="apoDown"):
    """Anchored preference optimization, down: both become less likely, rejected ones more so; for data whose chosen completions are worse than the model (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8)."""


class Sppo(LogRatioObjective, key="sppo"):
    """Self-play preference optimization with hard labels: squared distance of each log-ratio from plus or minus 1/(2 beta) (Wu et al. 2024, arXiv:2405.00675, eq. 4.7 with win probabilities 1 and 0)."""

    beta: float = Field(
        0.001,
        gt=0,
        le=100,
        description="Inverse step size 1/eta of the game; the log-ratios' targets are +-1/(2 beta).",
    )
