"""Temporal differences under traces that correct for completions sampled by another policy.

With mu the policy that sampled, pi the policy as it is now and rho_t = pi(y_t) / mu(y_t), all three estimate

    A_s = delta_s + sum_{t > s} gamma^(t-s) beta_{s,t} delta_t,     delta_t = r_t + gamma V_{t+1} - V_t,

and differ in the trace beta, a function of rho_{s+1} to rho_t that is lambda^(t-s) where all ratios are 1: then each is
GAE. The ratio of token s itself is left out, because the advantage is that of having chosen it; policy objectives
multiply it in. The values' targets V_s + sum_{t >= s} gamma^(t-s) beta'_{s,t} delta_t have traces over rho_s to rho_t.

The fixed point of the targets, in expectation under mu: beta'_{s,t} with a factor min(c, rho_t) as its last one gives
the value of the policy proportional to min(c mu, pi) (Espeholt et al. 2018, sec. 4.1), which is that of pi where c is
at least the largest ratio. The guarantees of Retrace and RBIS are for values of actions, whose temporal differences
average over pi by themselves; with a critic of states their cut of the last ratio biases the targets in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.advantage.traces import RecencyBounded, Retrace, TraceEstimator, VTrace
from plumbline_trainer.advantages.recursions import backward_sums
from plumbline_trainer.advantages.registry import ESTIMATORS, VALUE_TARGETS
from plumbline_trainer.advantages.values import next_values, normalized, temporal_differences, values_of
from plumbline_trainer.rollout.judged import JudgedRollout

LARGEST_LOG_RATIO = 80.0
"""Ratios are finite: a trace of 0 times an infinite one would be undefined."""


@ESTIMATORS.implements(VTrace)
def vtrace(parameters: VTrace, rollout: JudgedRollout) -> Tensor:
    """beta_{s,t} = lambda prod_{s<i<t} (lambda min(c, rho_i)) min(rho_max, rho_t) for t > s; V-trace (Espeholt et al.
    2018, arXiv:1802.01561). [N, T].

    A_s = delta_s + gamma lambda (v_{s+1} - V_{s+1}) with v the targets: IMPALA's r_s + gamma v_{s+1} - V_s where
    lambda is 1. The factor lambda in front makes it GAE where all ratios are 1.
    """
    return _of_truncated(parameters, rollout, parameters.rho_clip, parameters.trace_clip)


@VALUE_TARGETS.implements(VTrace)
def vtrace_targets(parameters: VTrace, lambda_: float, rollout: JudgedRollout) -> Tensor:
    """v_s = V_s + sum_{t>=s} gamma^(t-s) prod_{s<=i<t} (lambda min(c, rho_i)) min(rho_max, rho_t) delta_t [N, T]
    (Espeholt et al. 2018, arXiv:1802.01561, eq. 1)."""
    return values_of(rollout) + _corrections(parameters, lambda_, rollout, parameters.rho_clip, parameters.trace_clip)


@ESTIMATORS.implements(Retrace)
def retrace(parameters: Retrace, rollout: JudgedRollout) -> Tensor:
    """beta_{s,t} = prod_{s<i<=t} lambda min(1, rho_i); Retrace (Munos et al. 2016, arXiv:1606.02647, sec. 3). [N, T].

    V-trace with both bounds 1 is the same.
    """
    return _of_truncated(parameters, rollout, 1.0, 1.0)


@VALUE_TARGETS.implements(Retrace)
def retrace_targets(parameters: Retrace, lambda_: float, rollout: JudgedRollout) -> Tensor:
    """V_s + sum_{t>=s} (gamma lambda)^(t-s) prod_{s<=i<=t} min(1, rho_i) delta_t [N, T]."""
    return values_of(rollout) + _corrections(parameters, lambda_, rollout, 1.0, 1.0)


@ESTIMATORS.implements(RecencyBounded)
def recency_bounded(parameters: RecencyBounded, rollout: JudgedRollout) -> Tensor:
    """beta_{s,s} = 1, beta_{s,t} = min(lambda^(t-s), beta_{s,t-1} rho_t); RBIS (Daley et al. 2023, arXiv:2301.11321).
    [N, T].

    A trace that a small ratio has cut grows again with later ratios above 1, up to the bound. It depends on where it
    started, so there is no recursion over sums: this takes T steps over the traces of all starts, N T^2 / 2 operations.
    """
    differences = temporal_differences(rollout, parameters.gamma)
    sums = _recency_bounded_sums(differences, ratios(rollout), parameters.gamma, parameters.lambda_, first=False)
    return normalized(sums, parameters.normalize, rollout)


@VALUE_TARGETS.implements(RecencyBounded)
def recency_bounded_targets(parameters: RecencyBounded, lambda_: float, rollout: JudgedRollout) -> Tensor:
    """V_s + sum_{t>=s} gamma^(t-s) beta'_{s,t} delta_t [N, T], beta'_{s,s} = min(1, rho_s) and on as for advantages."""
    differences = temporal_differences(rollout, parameters.gamma)
    return values_of(rollout) + _recency_bounded_sums(
        differences, ratios(rollout), parameters.gamma, lambda_, first=True
    )


def ratios(rollout: JudgedRollout) -> Tensor:
    """[N, T] float64: pi / mu of each token, 1 outside. Raises `ValueError` without the policy's log-probabilities."""
    if rollout.policy_logprobs is None:
        raise ValueError("an off-policy trace needs log-probabilities under the policy as it is now")
    difference = rollout.policy_logprobs.double() - rollout.logprobs.double()
    mask = rollout.mask & rollout.valid[:, None]
    return torch.where(mask, difference, 0.0).clamp(max=LARGEST_LOG_RATIO).exp()


def _of_truncated(parameters: TraceEstimator, rollout: JudgedRollout, rho_clip: float, trace_clip: float) -> Tensor:
    """delta_s + gamma lambda u_{s+1} with u the corrections of the values."""
    corrections = _corrections(parameters, parameters.lambda_, rollout, rho_clip, trace_clip)
    differences = temporal_differences(rollout, parameters.gamma)
    advantages = differences + parameters.gamma * parameters.lambda_ * next_values(corrections)
    return normalized(advantages, parameters.normalize, rollout)


def _corrections(
    parameters: TraceEstimator, lambda_: float, rollout: JudgedRollout, rho_clip: float, trace_clip: float
) -> Tensor:
    """u_s = min(rho_max, rho_s) delta_s + gamma lambda min(c, rho_s) u_{s+1} [N, T]."""
    rho = ratios(rollout)
    differences = temporal_differences(rollout, parameters.gamma)
    return backward_sums(rho.clamp(max=rho_clip) * differences, parameters.gamma * lambda_ * rho.clamp(max=trace_clip))


def _recency_bounded_sums(differences: Tensor, rho: Tensor, gamma: float, lambda_: float, *, first: bool) -> Tensor:
    """[N, T]: sum_{t>=s} gamma^(t-s) beta_{s,t} delta_t; `first`: the trace begins with the ratio of s itself."""
    sums = torch.zeros_like(differences)
    traces = torch.zeros_like(differences)
    for last in range(differences.shape[1]):
        distances = torch.arange(last, -1, -1, dtype=differences.dtype)
        traces[:, last] = 1.0
        begun = last + 1 if first else last
        grown = traces[:, :begun] * rho[:, last, None]
        traces[:, :begun] = torch.minimum(lambda_ ** distances[:begun], grown)
        sums[:, : last + 1] += gamma**distances * traces[:, : last + 1] * differences[:, last, None]
    return sums
