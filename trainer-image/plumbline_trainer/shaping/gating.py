"""Rewards that count only where another one says so."""

from __future__ import annotations

import math

import torch

from plumbline_api.methods.shaping.gating import ComponentGate, Posterior, SigmoidGate, Trust
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Evidence, Shaped, State


@SHAPINGS.implements(ComponentGate)
def component_gate(parameters: ComponentGate, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R where the component reaches the threshold, `otherwise` elsewhere."""
    passed = rollout.components[parameters.component] >= parameters.threshold
    return Shaped(
        torch.where(passed, rollout.rewards, parameters.otherwise),
        metrics={"passed": Metric.mean_of(passed.double(), rollout.valid)},
    )


@SHAPINGS.implements(Posterior)
def posterior(parameters: Posterior, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R + weight r for right completions, R for wrong ones; Posterior-GRPO (Fan et al. 2025, arXiv:2508.05170)."""
    process = rollout.components[parameters.component]
    return Shaped(
        rollout.rewards + torch.where(rollout.correct, parameters.weight * process, 0.0),
        metrics={
            "of_right": Metric.mean_of(process.nan_to_num(0.0), rollout.valid & rollout.correct),
            "of_wrong": Metric.mean_of(process.nan_to_num(0.0), rollout.valid & ~rollout.correct),
        },
    )


@SHAPINGS.implements(Trust)
def trust(parameters: Trust, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R + weight e^(-step / T) g r with the trust g = min(1, e^(mu_right - mu_wrong)) of the group.

    SophiaVL-R1 (Fan et al. 2025, arXiv:2505.17018); mu are the means of the thinking reward r over right and wrong
    completions of the group. Where all are right, or all wrong, there is nothing to compare and nothing is added, as in
    the authors' code.
    """
    thinking = rollout.components[parameters.component]
    right, wrong = rollout.valid & rollout.correct, rollout.valid & ~rollout.correct
    of_right, of_wrong = Groups(rollout.groups, right), Groups(rollout.groups, wrong)
    mixed = (of_right.size > 0) & (of_wrong.size > 0)
    trusted = (of_right.mean(thinking) - of_wrong.mean(thinking)).clamp(max=0).exp()
    trusted = torch.where(mixed, trusted, 0.0)
    weight = parameters.weight * math.exp(-rollout.step / parameters.annealing_steps)
    return Shaped(
        rollout.rewards + weight * trusted * torch.where(rollout.valid, thinking, 0.0),
        metrics={"trust": Metric.mean_of(trusted, rollout.valid & mixed), "weight": Metric(weight, 1.0)},
    )


@SHAPINGS.implements(SigmoidGate)
def sigmoid_gate(parameters: SigmoidGate, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R + sigmoid(alpha r) - 1; Qwen2.5-Math (Yang et al. 2024, arXiv:2409.12122).

    With a verifier of 0 or 1 as R every right completion gets more than 0 and every wrong one less, whatever the score
    r of the reward model is.
    """
    score = rollout.components[parameters.component]
    return Shaped(rollout.rewards - torch.sigmoid(-parameters.alpha * score))
