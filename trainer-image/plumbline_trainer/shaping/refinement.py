"""Rewards for improving an own draft."""

from __future__ import annotations

import torch

from plumbline_api.methods.shaping.refinement import RefinementGain
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Evidence, Shaped, State


@SHAPINGS.implements(RefinementGain)
def refinement_gain(parameters: RefinementGain, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R + weight sum_t discount^t (r_(t+1) - r_t) + finalWeight r_last over the scores r of draft and revisions.

    After AvR (Zhang et al. 2025, arXiv:2506.06009), which rewards refinements by what they improve. Repeating a draft
    gains 0, spoiling it is negative. Without discount the gains sum to last score less first.
    """
    scores = torch.stack([rollout.components[name] for name in parameters.rounds])
    gains = scores[1:] - scores[:-1]
    discounts = parameters.discount ** torch.arange(len(gains), dtype=torch.float64)
    gain = (discounts[:, None] * gains).sum(dim=0)
    improved = scores[-1] > scores[0]
    return Shaped(
        rollout.rewards + parameters.weight * gain + parameters.final_weight * scores[-1],
        metrics={
            "gain": Metric.mean_of(torch.where(rollout.valid, scores[-1] - scores[0], 0.0), rollout.valid),
            "improved": Metric.mean_of(improved.double(), rollout.valid),
        },
    )
