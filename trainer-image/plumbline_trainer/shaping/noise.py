"""Corrections for verifiers that are wrong at known rates.

A verifier calls a wrong completion right with probability rho0 and a right one wrong with rho1 (Cai et al. 2025,
arXiv:2510.00915). With c = 1 - rho0 - rho1 its verdict R of a completion of clean reward r has E[R | r] = rho0 + c r.

What that means for an estimator of advantages: an affine function of all rewards of a group leaves
(R - mean) / deviation as it is, so with `groupRelative: {normalize: std}` no correction by constant rates changes
anything where the verdict is the whole reward. There, verdicts have the deviation sqrt(q (1 - q)) with q = rho0 + c p
for a prompt of pass rate p, and the expected advantage of a large group is that of the clean rewards times
c sqrt(p (1 - p)) / sqrt(q (1 - q)): never turned round, but weaker the nearer p is to 0 or 1. The backward correction
counts where the scale of rewards does: beside other components, with `normalize: none` or `leaveOneOut`, with
thresholds and with a KL penalty in the reward. The forward correction is R + rho1 - 1, so any baseline removes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plumbline_api.methods.shaping.noise import BackwardCorrection, ForwardCorrection, NoisyVerifier
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Evidence, Shaped, State

LEAST_INFORMATION = 0.05
"""Least 1 - rho0 - rho1 that an estimated rate may lead to: rewards are then multiplied by at most 20."""


@SHAPINGS.implements(BackwardCorrection)
def backward_correction(
    parameters: BackwardCorrection, rollout: JudgedRollout, state: State, evidence: Evidence
) -> Shaped:
    """(R - rho0) / (1 - rho0 - rho1), whose expectation is the clean reward; Cai et al. 2025, arXiv:2510.00915.

    E[(R - rho0) / c | r] = (rho0 + c r - rho0) / c = r. With a component, the corrected component times `weight` is
    added to the total, and later steps see it; without, the total is the verdict.
    """
    name = parameters.component
    verdict = rollout.rewards if name is None else rollout.components[name]
    rates, state, metrics = _rates(parameters, verdict, rollout, state)
    corrected = (verdict - rates.false_positive) / (1 - rates.false_positive - rates.false_negative)
    if name is None:
        return Shaped(corrected, state, metrics)
    return Shaped(rollout.rewards + parameters.weight * corrected, state, metrics, components={name: corrected})


@SHAPINGS.implements(ForwardCorrection)
def forward_correction(
    parameters: ForwardCorrection, rollout: JudgedRollout, state: State, evidence: Evidence
) -> Shaped:
    """R + rho1 - 1: rho1 for a verdict of 1 and rho1 - 1 for one of 0; Cai et al. 2025, arXiv:2510.00915.

    Of a right completion the expected weight is (1 - rho1) rho1 + rho1 (rho1 - 1) = 0, of a wrong one
    rho0 rho1 + (1 - rho0) (rho1 - 1) = -(1 - rho0 - rho1). Together that is (1 - rho0 - rho1) (r - 1), and the constant
    has no expected gradient, so without a baseline the expected gradient is parallel to the clean one, with the
    strength 1 - rho0 - rho1. The rate of false positives is not needed.
    """
    rates, state, metrics = _rates(parameters, rollout.rewards, rollout, state)
    return Shaped(rollout.rewards + rates.false_negative - 1, state, metrics)


@dataclass(frozen=True)
class _Rates:
    false_positive: float
    false_negative: float


def _rates(
    parameters: NoisyVerifier, verdict: Tensor, rollout: JudgedRollout, state: State
) -> tuple[_Rates, State, dict[str, Metric]]:
    """The rates to correct this rollout with, the state after it, and metrics.

    The rate in use was known before the rollout: one that came from the same verdicts would not be independent of them,
    and the correction no longer unbiased. State: moving sums of missed and of all right completions.
    """
    false_positive, false_negative = parameters.false_positive_rate, parameters.false_negative_rate
    if parameters.appeal is not None:
        right = state.get("right", 0.0)
        if right > 0:
            false_negative = min(state["missed"] / right, 1 - false_positive - LEAST_INFORMATION)
        missed, all_right = appealed(
            verdict, rollout.components[parameters.appeal.component], rollout.valid, false_positive
        )
        kept = parameters.appeal.momentum
        state = {
            "missed": kept * state.get("missed", 0.0) + (1 - kept) * missed,
            "right": kept * right + (1 - kept) * all_right,
        }
    return (
        _Rates(false_positive, false_negative),
        state,
        {"false_negative_rate": Metric(false_negative, 1.0)},
    )


def appealed(verdict: Tensor, opinion: Tensor, valid: Tensor, false_positive: float) -> tuple[float, float]:
    """Estimated numbers of right completions that the verifier missed, and of all right ones.

    `verdict`, `opinion` and `valid` are [N]; an opinion of NaN is none. Of n0 completions that the verifier calls
    wrong, of which a second opinion exists for a and calls b right, n0 b / a were missed. The others, n0 - missed, are
    wrong and a share 1 - rho0 of all wrong ones, so rho0 / (1 - rho0) times as many wrong ones are among the n1 that
    the verifier calls right; the remainder of those is right.
    """
    called_right = valid & (verdict >= 1)
    called_wrong = valid & (verdict < 1)
    asked = called_wrong & ~opinion.isnan()
    overturned = float((asked & (opinion >= 1)).sum())
    missed = float(called_wrong.sum()) * overturned / float(asked.sum()) if bool(asked.any()) else 0.0
    wrongly_right = false_positive / (1 - false_positive) * (float(called_wrong.sum()) - missed)
    return missed, missed + max(float(called_right.sum()) - wrongly_right, 0.0)
