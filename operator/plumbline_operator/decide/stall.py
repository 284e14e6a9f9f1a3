"""Whether a run stalls, and what shows whether it gets on (pure).

The trainer watches itself, because it knows what it is doing: its report says so when it stalls. A trainer that answers
no more cannot, so for one that did answer in this attempt the operator keeps the same clock, with some patience more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from plumbline_api.conditions import ConditionType, Reason
from plumbline_api.contract import StallReport, StatusReport
from plumbline_api.run_policy import RunPolicy
from plumbline_operator.decide.attempts import Gang
from plumbline_operator.decide.conditions import condition_of
from plumbline_operator.decide.diagnosis import Finding, Rank
from plumbline_operator.decide.draft import Draft
from plumbline_operator.pods import PodView

SILENT_SECONDS = 60.0
"""A trainer that has not answered for so long is asked no more whether it stalls."""
REPORT_SECONDS = 15.0
"""The age that a report may have: three questions."""
UNKNOWN_DEADLINE_SECONDS = 1800.0
"""For a trainer that never said what its deadline is: the longest that it chooses without knowing its steps."""
WAITS_FOR_OTHERS = "distributed.py:"
"""In the place where a rank hangs: it waits for the other ranks."""

_STALLED_LINE = re.compile(r"no progress for .* s while \w+; the main thread is in (.*)\. Stacks of all threads")


def stall_finding(
    gang: Gang,
    report: StatusReport | None,
    silent_seconds: float,
    log_tails: Mapping[str, str],
    policy: RunPolicy,
    now: datetime,
) -> tuple[Finding | None, float | None]:
    """The end of an attempt that stalls, and otherwise the seconds until it may be found to.

    `report` is the last one of this attempt; `silent_seconds` is how long rank 0 has left every question unanswered.
    runPolicy.progressDeadlineSeconds may have changed since the trainer started: the present value counts.
    """
    given = policy.progress_deadline_seconds
    if given == 0 or gang.attempt.running_time is None:
        return None, None
    if silent_seconds < SILENT_SECONDS:
        if report is None:
            return None, None  # who asks the trainers tells of one that leaves all questions unanswered for so long
        if report.stall is not None:
            left = (given or 0.0) - (now - report.stall.since).total_seconds()
            return (_said(gang, report.stall, log_tails), None) if left <= 0 else (None, left)
        shortened = _left_of_shorter(report, given, now)
        if shortened is not None:
            return (_overdue(gang, given), None) if shortened <= 0 else (None, shortened)
        return None, max(SILENT_SECONDS, _next_look(report, given, now))
    if report is None:
        answered = gang.attempt.to_step is not None
        left = (given or UNKNOWN_DEADLINE_SECONDS) - silent_seconds
        if not answered:
            return None, None  # the operator may have no way to it at all
    else:
        left = _next_look(report, given, now)
    return (_silent(gang, silent_seconds), None) if left <= 0 else (None, left)


def _next_look(report: StatusReport, given: float | None, now: datetime) -> float:
    """Seconds until a trainer with this last report would have stalled, if it said nothing any more."""
    since = report.last_progress_time or report.last_step_time
    if since is None:
        return UNKNOWN_DEADLINE_SECONDS
    deadline = max(given or 0.0, report.stall_deadline_seconds or UNKNOWN_DEADLINE_SECONDS)
    return deadline + SILENT_SECONDS - (now - since).total_seconds()


def _left_of_shorter(report: StatusReport, given: float | None, now: datetime) -> float | None:
    """Seconds until a run that does steps has exceeded a deadline that was shortened after the trainer had started,
    which therefore does not know it; None where it was not."""
    since, known = report.last_progress_time, report.stall_deadline_seconds
    in_steps = report.state == "training" and report.step > report.from_step
    if given is None or since is None or known is None or given >= known or not in_steps:
        return None
    return given + REPORT_SECONDS - (now - since).total_seconds()


def _overdue(gang: Gang, given: float | None) -> Finding:
    message = f"no step for {given:g} s, the present runPolicy.progressDeadlineSeconds"
    return Finding(Reason.STALLED, message, Rank.OWN_FAULT, pod=gang.leader)


def _said(gang: Gang, stall: StallReport, log_tails: Mapping[str, str]) -> Finding:
    pod, where = _culprit(gang, stall, log_tails)
    rank = f" of rank {pod.rank}" if pod is not None and gang.replicas > 1 else ""
    place = f"; the main thread{rank} is in {where}" if where else ""
    message = f"no progress for {stall.deadline_seconds:g} s while {stall.state}{place}"
    return Finding(Reason.STALLED, message, Rank.OWN_FAULT, pod=pod, details=stall.stacks)


def _culprit(gang: Gang, stall: StallReport, log_tails: Mapping[str, str]) -> tuple[PodView | None, str]:
    """The rank that hangs by itself, where the logs tell; the others only wait for it. Else rank 0, which reported."""
    if gang.replicas > 1 and WAITS_FOR_OTHERS in stall.location:
        for pod in gang.pods:
            found = _STALLED_LINE.search(log_tails.get(pod.name, ""))
            if found and WAITS_FOR_OTHERS not in found.group(1):
                return pod, found.group(1)
    return gang.leader, stall.location


def _silent(gang: Gang, silent_seconds: float) -> Finding:
    leader = gang.leader
    name = f"pod {leader.name}" if leader is not None else "rank 0"
    message = f"{name} runs and has not answered for {silent_seconds:.0f} s, longer than a step may take"
    return Finding(Reason.STALLED, message, Rank.OWN_FAULT, pod=leader)


def show_progress(draft: Draft) -> None:
    """The condition Progressing: true while the trainer gets on; false for the reason for which it runs no more."""
    running = condition_of(draft.status, ConditionType.RUNNING)
    progressing = condition_of(draft.status, ConditionType.PROGRESSING)
    if running is None:
        return
    if running.status == "True":
        draft.set(ConditionType.PROGRESSING, "True", Reason.TRAINING, "the trainer does its steps in time")
    elif progressing is not None and progressing.status == "True":
        draft.set(ConditionType.PROGRESSING, "False", running.reason, running.message)
