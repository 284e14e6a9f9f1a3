"""What every part of a decision about an accepted job works on (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from plumbline_api.contract import StatusReport
from plumbline_api.status import Attempt, JobStatus
from plumbline_operator.decide import usage
from plumbline_operator.decide.acceptance import live_policy, live_scheduling
from plumbline_operator.decide.attempts import Stopping
from plumbline_operator.decide.draft import Draft
from plumbline_operator.decide.grace import grace_of_deletion
from plumbline_operator.decide.stall import show_progress
from plumbline_operator.model import Decision, Observed, Step
from plumbline_operator.snapshot import Snapshot


class RunState:
    """The status being written, what was observed, and the spec as far as it may change."""

    def __init__(self, draft: Draft, observed: Observed, snapshot: Snapshot) -> None:
        self.draft = draft
        self.status: JobStatus = draft.status
        self.observed = observed
        self.snapshot = snapshot
        self.now = draft.now
        self.policy = live_policy(observed.job, snapshot)
        self.scheduling = live_scheduling(observed.job, snapshot)

    @property
    def uid(self) -> str:
        return str(self.observed.job["metadata"]["uid"])

    @property
    def stopping(self) -> Stopping:
        """How pods are stopped."""
        grace = grace_of_deletion(self.policy, self.status.save_seconds)
        return Stopping(self.observed.nodes, self.policy.node_lost_timeout_seconds, grace)

    def report_of(self, attempt: Attempt) -> StatusReport | None:
        """The last report, if it is this attempt's and not one of a pod that is gone."""
        report = self.observed.report
        return report if report is not None and report.attempt == attempt.number else None

    def go_on(self, steps: Sequence[Step], *, after: float | None = None, again: bool = False) -> Decision:
        """The decision: the status as it is now, then the steps."""
        show_progress(self.draft)
        usage.update_usage(self.draft.stored, self.status, self.observed, self.snapshot, self.now)
        return self.draft.decision(*steps, requeue_after=after, again=again)


def soonest(*waits: float | None) -> float | None:
    """The shortest of the waits that there are."""
    return min((wait for wait in waits if wait is not None), default=None)
