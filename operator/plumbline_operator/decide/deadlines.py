"""How long an attempt may take to get anywhere: until all its pods run, and until its first step (pure)."""

from __future__ import annotations

from datetime import datetime, timedelta

from plumbline_api.conditions import Reason
from plumbline_api.contract import StatusReport
from plumbline_api.run_policy import RunPolicy
from plumbline_operator.decide.attempts import Gang
from plumbline_operator.decide.diagnosis import Finding, Rank

_PAST_THE_FIRST_STEP = frozenset({"exporting", "done"})


def pending_left(gang: Gang, policy: RunPolicy, now: datetime) -> float | None:
    """Seconds until pods that hold nodes are given back; None while none does, once all run, and without a limit.

    What waits without a node waits for free, so the time counts from the first pod that got one.
    """
    if not policy.pending_timeout_seconds or gang.attempt.running_time is not None or gang.all_run:
        return None
    holding = [pod.bound for pod in gang.pods if pod.bound is not None and not pod.finished]
    if not holding:
        return None
    return (min(holding) + timedelta(seconds=policy.pending_timeout_seconds) - now).total_seconds()


def pending_finding(gang: Gang, policy: RunPolicy, explanation: str) -> Finding:
    """The end of an attempt whose pods did not come together. The pod that is to blame is one that has a node and does
    not run on it; while a pod has no node, none is."""
    without_node = [pod for pod in gang.pods if pod.bound is None]
    stuck = [pod for pod in gang.pods if pod.phase == "Pending"]
    message = (
        f"pods held nodes for runPolicy.pendingTimeoutSeconds, {policy.pending_timeout_seconds} s, and not all of them"
        f" ran: {explanation}"
    )
    blamed = stuck[0] if stuck and not without_node and not gang.missing else None
    return Finding(Reason.PENDING_TIMEOUT, message, Rank.TAKEN_AWAY, pod=blamed)


def first_step_left(gang: Gang, report: StatusReport | None, policy: RunPolicy, now: datetime) -> float | None:
    """Seconds until an attempt without a first step is stopped; None before its pods run, after the step, and without a
    limit. The step is known from the status too, so that an operator that has just started waits for no report."""
    limit, attempt = policy.first_step_deadline_seconds, gang.attempt
    if limit is None or attempt.running_time is None:
        return None
    if report is not None and report.state in _PAST_THE_FIRST_STEP:
        return None
    if attempt.to_step is not None and attempt.to_step > (attempt.from_step or 0):
        return None
    return (attempt.running_time + timedelta(seconds=limit) - now).total_seconds()


def first_step_finding(gang: Gang, policy: RunPolicy) -> Finding:
    """The end of an attempt that came to no step."""
    limit = policy.first_step_deadline_seconds
    message = f"the pods ran longer than runPolicy.firstStepDeadlineSeconds, {limit} s, without a first step"
    return Finding(Reason.FIRST_STEP_TIMEOUT, message, Rank.OWN_FAULT, pod=gang.leader)
