"""The life of a job: one step of its state machine (pure).

The state is what the API server holds: the job's status says what was begun, the pods say what came of it. A status
that begins something is written before the thing is done, so that after a crash the next decision finds the intent
and finishes it. In `Decision.steps` events come first (posting one twice is harmless), then the status, then children
and deletions.

    no snapshot --accept--> snapshot --start--> attempt open --all pods exit 0--> Complete
                                        ^          |  |  +--permanent failure, limit, deadline--> Failed
                                        |          |  +--suspend--> suspending --pods gone--> suspended --resume--+
                                        +--backoff-+                                                              |
                                        +-------------------------------------------------------------------------+
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from plumbline_api.conditions import ConditionType, Phase, Reason
from plumbline_api.contract import EXIT_REASONS, ExitCode, StatusReport
from plumbline_api.running import RunPolicy
from plumbline_api.status import Attempt, JobStatus, SnapshotStatus
from plumbline_operator.children import pod_manifest, service_manifest
from plumbline_operator.decide import usage
from plumbline_operator.decide.acceptance import NotAccepted, accept, live_policy, live_scheduling, spec_change
from plumbline_operator.decide.attempts import (
    ATTEMPTS_KEPT,
    Gang,
    cause_of_end,
    failure_of,
    gang_of,
    lost_pod_check,
    next_start,
    stop_pods,
    unfinished,
)
from plumbline_operator.decide.conditions import Status, condition_of, holds, is_terminal
from plumbline_operator.decide.diagnosis import Finding, Rank, seconds_to_settle
from plumbline_operator.decide.draft import Draft, read_status
from plumbline_operator.decide.pending import REFUSAL_REASONS, explain
from plumbline_operator.decide.progress import is_training, merge_last_words, merge_report
from plumbline_operator.model import Apply, Decision, Delete, DeleteJob, Observed, Step
from plumbline_operator.resources import CONFIG_MAPS, PODS, SERVICES
from plumbline_operator.snapshot import Snapshot, read_snapshot

REFUSAL_RETRY_SECONDS = 5.0
"""Kubernetes tells nobody when a quota is raised or an admission policy relaxed: ask again."""
FOREIGN_RETRY_SECONDS = 2.0


def decide(observed: Observed, now: datetime) -> Decision:
    """What to do about a job now."""
    if observed.job["metadata"].get("deletionTimestamp"):
        return Decision()  # owner references take the children along
    now = now.replace(microsecond=0)
    draft = Draft(observed.job, read_status(observed.job), now)
    if is_terminal(draft.status):
        return _finished(draft, observed)
    if observed.snapshot is None:
        return _accept(draft, observed)
    return _Run(draft, observed, read_snapshot(observed.snapshot)).decide()


def _accept(draft: Draft, observed: Observed) -> Decision:
    """No snapshot yet: make one, or say why not."""
    draft.status.phase = draft.status.phase or Phase.PENDING
    if observed.foreign:
        draft.set(
            ConditionType.PODS_READY,
            "False",
            Reason.WAITING_FOR_PODS,
            _in_the_way(observed),
        )
        return draft.decision(requeue_after=FOREIGN_RETRY_SECONDS)
    try:
        manifest = accept(observed)
    except NotAccepted as refusal:
        draft.set(ConditionType.ACCEPTED, "False", refusal.reason, refusal.message)
        return draft.decision()
    if observed.refusals:
        reason, message = explain([], [], observed.refusals, 0)
        draft.set(ConditionType.ACCEPTED, "False", reason, message)
        return draft.decision(requeue_after=REFUSAL_RETRY_SECONDS)
    return Decision(steps=(Apply(CONFIG_MAPS, manifest),), again=True)


def _in_the_way(observed: Observed) -> str:
    return f"{', '.join(observed.foreign[:3])} must be gone first: not of this job, under a name that this job needs"


def _finished(draft: Draft, observed: Observed) -> Decision:
    """Complete or Failed: stop what still runs, keep ended pods for their logs, delete the job when its time is up."""
    steps: list[Delete | DeleteJob] = [*stop_pods(observed.pods, draft.now)]
    steps.extend(Delete(SERVICES, service.name, service.uid) for service in observed.services)
    after = lost_pod_check(observed.pods, draft.now)
    policy = _policy_or_none(observed)
    completion = draft.status.completion_time
    if policy is not None and policy.ttl_seconds_after_finished is not None and completion is not None:
        left = (completion + timedelta(seconds=policy.ttl_seconds_after_finished) - draft.now).total_seconds()
        if left <= 0:
            return Decision(steps=(*steps, DeleteJob(observed.job["metadata"]["uid"])))
        after = min(after, left) if after is not None else left
    return Decision(steps=tuple(steps), requeue_after=after)


def _policy_or_none(observed: Observed) -> RunPolicy | None:
    try:
        return RunPolicy.model_validate(observed.job["spec"].get("runPolicy") or {})
    except ValueError:
        return None


class _Run:
    """The decision about an accepted job."""

    def __init__(self, draft: Draft, observed: Observed, snapshot: Snapshot) -> None:
        self.draft = draft
        self.status: JobStatus = draft.status
        self.observed = observed
        self.snapshot = snapshot
        self.now = draft.now
        self.policy = live_policy(observed.job, snapshot)

    def decide(self) -> Decision:
        self._set_facts()
        attempt = self.status.attempts[-1] if self.status.attempts else None
        if attempt is None:
            return self._between_attempts()
        gang = gang_of(attempt, self.snapshot.replicas, self.observed)
        self._set_results(gang)
        if attempt.end_time is not None:
            if attempt.exit_code is None:
                self._remember_exit(gang)
            return self._between_attempts()
        return self._during_attempt(gang)

    # what is known

    def _set_facts(self) -> None:
        changed = spec_change(self.observed.job, self.snapshot)
        reason = Reason.SPEC_CHANGED if changed else Reason.ACCEPTED
        self.draft.set(ConditionType.ACCEPTED, "True", reason, changed or "spec and runtime are valid and stored")
        self.status.snapshot = SnapshotStatus(name=self.snapshot.name, hash=self.snapshot.hash)
        self.status.objective = self.snapshot.objective
        self.status.gpus = self.snapshot.total_gpus

    def _set_results(self, gang: Gang) -> None:
        attempt, report = gang.attempt, self._report_of(gang.attempt)
        if attempt.end_time is None and report is not None:
            merge_report(self.status, attempt, report)
        if gang.words is not None:
            merge_last_words(self.status, attempt, gang.words)
        if self.status.checkpoint is not None:
            message = "the newest verified checkpoint stands in status.checkpoint"
            self.draft.set(ConditionType.CHECKPOINTED, "True", Reason.CHECKPOINT_SAVED, message)
        else:
            self.draft.set(
                ConditionType.CHECKPOINTED, "False", Reason.NO_CHECKPOINT, "no verified checkpoint exists yet"
            )

    def _report_of(self, attempt: Attempt) -> StatusReport | None:
        """The last report, if it is this attempt's and not one of a pod that is gone."""
        report = self.observed.report
        return report if report is not None and report.attempt == attempt.number else None

    # an attempt is open

    def _during_attempt(self, gang: Gang) -> Decision:
        attempt = gang.attempt
        if attempt.running_time is None and gang.running_since is not None:
            attempt.running_time = max(gang.running_since, attempt.start_time or gang.running_since)
        if gang.succeeded:
            return self._complete(gang)
        stopping = self.policy.suspend or self.status.phase == Phase.SUSPENDING
        finding = cause_of_end(gang, self.observed)
        if finding is not None and finding.permanent:
            return self._fail(gang, finding, finding.message)
        if stopping:
            return self._suspend(gang)
        left = self._deadline_left()
        if left is not None and left <= 0:
            return self._deadline_exceeded(gang)
        if finding is not None:
            settling = seconds_to_settle(finding, gang.pods, self.now)
            return self._continue([], after=settling) if settling > 0 else self._retry_or_fail(gang, finding)
        return self._keep_going(gang, left)

    def _keep_going(self, gang: Gang, deadline_left: float | None) -> Decision:
        attempt = gang.attempt
        service = next((view for view in self.observed.services if view.attempt == attempt.number), None)
        if attempt.running_time is None and (service is None or not service.cluster_ip) and not self.observed.refusals:
            if self.observed.foreign:
                return self._wait_for_foreign()
            manifest = service_manifest(self.observed.job, attempt.number)
            return self._continue([Apply(SERVICES, manifest)], again=True)
        clearing = self._clear_earlier_attempts(attempt.number)
        creates: list[Apply] = []
        if attempt.running_time is None and service is not None:
            scheduling = live_scheduling(self.observed.job, self.snapshot)
            creates = [
                Apply(
                    PODS,
                    pod_manifest(
                        self.observed.job, self.snapshot, scheduling, attempt.number, rank, service.cluster_ip
                    ),
                )
                for rank in gang.missing
            ]
        # Creating what was refused before is a question whose answer comes later in this reconciliation: until then
        # the refusal stays told. A status that changed with the question and again with the answer would be two
        # writes, each of them an event that asks the question anew, without end.
        asked_again = bool(creates) and not self.observed.refusals and self._was_refused()
        if not asked_again:
            self._describe_pods(gang)
        after = deadline_left
        if self.observed.refusals:
            # What is refused is not asked for twice in one reconciliation.
            creates, after = [], min(REFUSAL_RETRY_SECONDS, after or REFUSAL_RETRY_SECONDS)
        return self._continue([*clearing, *creates], after=after, again=asked_again)

    def _was_refused(self) -> bool:
        condition = condition_of(self.status, ConditionType.PODS_READY)
        return condition is not None and condition.reason in REFUSAL_REASONS

    def _clear_earlier_attempts(self, number: int) -> list[Delete]:
        """The pods of a failed attempt are kept for their logs only until the next one is under way."""
        pods = [Delete(PODS, pod.name, pod.uid) for pod in self.observed.pods if pod.attempt < number]
        return pods + [
            Delete(SERVICES, view.name, view.uid) for view in self.observed.services if view.attempt < number
        ]

    def _describe_pods(self, gang: Gang) -> None:
        draft = self.draft
        if gang.attempt.running_time is None:
            self.status.phase = Phase.STARTING
            reason, message = explain(gang.pods, self.observed.warnings, self.observed.refusals, gang.replicas)
            draft.set(ConditionType.PODS_READY, "False", reason, message)
            draft.set(ConditionType.RUNNING, "False", Reason.WAITING_FOR_PODS, "not all pods run yet")
            return
        self.status.phase = Phase.RUNNING
        draft.set(ConditionType.PODS_READY, "True", Reason.PODS_RUNNING, f"{gang.replicas} of {gang.replicas} pods run")
        if is_training(self._report_of(gang.attempt)) or holds(self.status, ConditionType.RUNNING):
            draft.set(ConditionType.RUNNING, "True", Reason.TRAINING, "the trainer reports steps")
        else:
            draft.set(
                ConditionType.RUNNING, "False", Reason.PODS_RUNNING, "the pods run, the trainer has not reported yet"
            )

    def _deadline_left(self) -> float | None:
        if self.policy.active_deadline_seconds is None:
            return None
        return self.policy.active_deadline_seconds - usage.active_seconds(self.status, self.now)

    # an attempt ends

    def _retry_or_fail(self, gang: Gang, finding: Finding) -> Decision:
        attempt = gang.attempt
        if finding.counts:
            self.status.failures += 1
        if self.status.failures > self.policy.backoff_limit:
            limit = f"runPolicy.backoffLimit is {self.policy.backoff_limit}"
            message = f"attempt {attempt.number} failed and {limit}: {finding.message}"
            return self._fail(gang, finding, message)
        self._close(gang, finding)
        self.status.next_attempt_time = next_start(self.policy, finding, self.status.failures, attempt, self.now)
        self.status.phase = Phase.RESTARTING
        wait = round((self.status.next_attempt_time - self.now).total_seconds())
        when = f"the next starts in {wait} s" if wait > 0 else "the next starts at once"
        message = f"attempt {attempt.number} ended ({finding.reason}): {finding.message}; {when}"
        self.draft.set(ConditionType.PODS_READY, "False", Reason.BACKING_OFF, message)
        self.draft.set(ConditionType.RUNNING, "False", finding.reason, finding.message)
        return self._continue(stop_pods(gang.pods, self.now), after=max(wait, 0.1))

    def _close(self, gang: Gang, finding: Finding) -> None:
        attempt = gang.attempt
        usage.close_attempt(self.status, attempt, self.now)
        attempt.reason = finding.reason
        attempt.exit_code = finding.exit_code
        attempt.counts_towards_limit = finding.counts
        self.status.last_failure = failure_of(finding, attempt.number, self.observed, self.now)

    def _fail(self, gang: Gang, finding: Finding, message: str) -> Decision:
        self._close(gang, finding)
        return self._end(gang, ConditionType.FAILED, finding.reason, message)

    def _deadline_exceeded(self, gang: Gang) -> Decision:
        limit = self.policy.active_deadline_seconds
        message = f"the pods ran longer than runPolicy.activeDeadlineSeconds, {limit} s"
        finding = Finding(Reason.DEADLINE_EXCEEDED, message, Rank.STOPPED)
        return self._fail(gang, finding, message)

    def _complete(self, gang: Gang) -> Decision:
        usage.close_attempt(self.status, gang.attempt, self.now)
        gang.attempt.reason, gang.attempt.exit_code = Reason.COMPLETED, 0
        where = f"; the model is in {self.status.output.uri}" if self.status.output else ""
        return self._end(gang, ConditionType.COMPLETE, Reason.COMPLETED, f"training finished{where}")

    def _end(self, gang: Gang, verdict: ConditionType, reason: Reason, message: str) -> Decision:
        self.draft.set(verdict, "True", reason, message)
        for condition in (ConditionType.PODS_READY, ConditionType.RUNNING):
            self.draft.set(condition, "False", reason, "the job has ended")
        self.status.phase = Phase.COMPLETE if verdict == ConditionType.COMPLETE else Phase.FAILED
        self.status.completion_time = self.now
        self.status.next_attempt_time = None
        return self._continue(stop_pods(gang.pods, self.now), again=True)

    # suspended and between attempts

    def _suspend(self, gang: Gang) -> Decision:
        """SIGTERM, save, exit: the attempt stays open until its pods are gone, and does not count whatever they say."""
        if unfinished(gang.pods):
            self.status.phase = Phase.SUSPENDING
            self.draft.set(
                ConditionType.SUSPENDED, "False", Reason.SUSPENDED_BY_USER, "the pods save a checkpoint and stop"
            )
            self._remember_exit(gang)
            return self._continue(stop_pods(gang.pods, self.now), after=lost_pod_check(gang.pods, self.now))
        self._remember_exit(gang)
        attempt = gang.attempt
        attempt.reason = attempt.reason or Reason.SUSPENDED_BY_USER
        usage.close_attempt(self.status, attempt, self.now)
        return self._between_attempts()

    def _remember_exit(self, gang: Gang) -> None:
        """Pods that were deleted say on their way out whether they have saved."""
        attempt = gang.attempt
        ended = [c for pod in (*gang.pods, *gang.departed) if (c := pod.failed_container) is not None]
        for container in ended[:1]:  # in order of rank
            attempt.exit_code = code = container.exit_code
            if attempt.reason in ("", Reason.SUSPENDED_BY_USER):
                attempt.reason = EXIT_REASONS[ExitCode(code)] if code in EXIT_REASONS else Reason.KILLED

    def _between_attempts(self) -> Decision:
        """No attempt is open: suspended, waiting for pods to be gone, in backoff, or ready to start the next."""
        status, draft = self.status, self.draft
        left_over = unfinished(self.observed.pods)
        stops = stop_pods(self.observed.pods, self.now)
        check = lost_pod_check(self.observed.pods, self.now)
        if self.policy.suspend:
            status.phase = Phase.SUSPENDING if left_over else Phase.SUSPENDED
            status.next_attempt_time = None
            suspended: Status = "False" if left_over else "True"
            draft.set(ConditionType.SUSPENDED, suspended, Reason.SUSPENDED_BY_USER, "spec.runPolicy.suspend is true")
            for condition in (ConditionType.PODS_READY, ConditionType.RUNNING):
                draft.set(condition, "False", Reason.SUSPENDED_BY_USER, "the job is suspended")
            return self._continue(stops, after=check)
        if any(condition.type == ConditionType.SUSPENDED for condition in status.conditions):
            draft.set(ConditionType.SUSPENDED, "False", Reason.RESUMED, "spec.runPolicy.suspend is false again")
        if left_over:
            status.phase = Phase.RESTARTING
            return self._continue(stops, after=check)
        if status.next_attempt_time is not None and status.next_attempt_time > self.now:
            status.phase = Phase.RESTARTING
            return self._continue([], after=(status.next_attempt_time - self.now).total_seconds())
        return self._start()

    def _start(self) -> Decision:
        """Opens the next attempt in the status; its children follow when that is stored."""
        status = self.status
        if self.observed.foreign:
            return self._wait_for_foreign()
        number = status.attempt + 1
        status.attempt, status.restarts = number, number - 1
        status.start_time = status.start_time or self.now
        status.next_attempt_time = None
        status.phase = Phase.STARTING
        status.attempts = [*status.attempts, Attempt(number=number, start_time=self.now)][-ATTEMPTS_KEPT:]
        message = f"0 of {self.snapshot.replicas} pods run"
        self.draft.set(ConditionType.PODS_READY, "False", Reason.WAITING_FOR_PODS, message)
        self.draft.set(ConditionType.RUNNING, "False", Reason.WAITING_FOR_PODS, "not all pods run yet")
        return self._continue([], again=True)

    def _wait_for_foreign(self) -> Decision:
        self.draft.set(ConditionType.PODS_READY, "False", Reason.WAITING_FOR_PODS, _in_the_way(self.observed))
        return self._continue([], after=FOREIGN_RETRY_SECONDS)

    def _continue(self, steps: Sequence[Step], *, after: float | None = None, again: bool = False) -> Decision:
        usage.update_usage(self.status, self.snapshot, self.now)
        return self.draft.decision(*steps, requeue_after=after, again=again)
