"""Temporal differences under traces that correct for completions sampled by another policy."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.advantage.values import TemporalDifferences


class TraceEstimator(TemporalDifferences):
    """Parameters of estimators with an off-policy trace; not an estimator itself."""

    needs_policy_logprobs = True


class VTrace(TraceEstimator, key="vtrace"):
    """Temporal differences weighted by truncated importance ratios (V-trace, in IMPALA; Espeholt et al. 2018, arXiv:1802.01561, eq. 1). Equal to gae where the policy is the one that sampled."""

    rho_clip: float = Field(
        1.0,
        gt=0,
        le=1_000_000,
        description="Most that the ratio at a temporal difference may be; it decides whose value is learnt: the policy's where it is large, one between both policies where it is small.",
    )
    trace_clip: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="Most that a ratio on the way to a temporal difference may be; it trades variance for speed.",
    )


class Retrace(TraceEstimator, key="retrace"):
    """Temporal differences whose trace shrinks by min(1, ratio) at each token and never grows again (Munos et al. 2016, arXiv:1606.02647). Equal to gae where the policy is the one that sampled."""


class RecencyBounded(TraceEstimator, key="rbis"):
    """Temporal differences whose trace is the product of all ratios, bounded by lambda to the power of the distance, so that it recovers after a cut (RBIS; Daley et al. 2023, arXiv:2301.11321). Equal to gae where the policy is the one that sampled."""
