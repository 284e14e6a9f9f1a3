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

What follows from the end of an attempt is in `endings`, what makes one start in `gathering`, what stops one for a time
in `suspension`.
"""

from __future__ import annotations

from datetime import datetime

from plumbline_api.conditions import ConditionType, Phase, Reason
from plumbline_api.status import Attempt, SnapshotStatus
from plumbline_operator.decide import deadlines, endings, queueing, suspension, usage
from plumbline_operator.decide.acceptance import NotAccepted, accept, managed_elsewhere, spec_change
from plumbline_operator.decide.attempts import ATTEMPTS_KEPT, Gang, cause_of_end, gang_of, unfinished
from plumbline_operator.decide.conditions import is_terminal
from plumbline_operator.decide.diagnosis import Finding, Rank, seconds_to_settle
from plumbline_operator.decide.draft import Draft, read_status
from plumbline_operator.decide.gathering import (
    FOREIGN_RETRY_SECONDS,
    REFUSAL_RETRY_SECONDS,
    in_the_way,
    keep_going,
    wait_for_foreign,
)
from plumbline_operator.decide.grace import warning as grace_warning
from plumbline_operator.decide.health import healthy, merge_health
from plumbline_operator.decide.node_loss import node_loss
from plumbline_operator.decide.pending import explain
from plumbline_operator.decide.progress import merge_last_words, merge_report
from plumbline_operator.decide.restart_rules import Answer
from plumbline_operator.decide.run_state import RunState, soonest
from plumbline_operator.decide.stall import stall_finding
from plumbline_operator.model import Apply, Decision, Observed, PostEvent
from plumbline_operator.resources import CONFIG_MAPS
from plumbline_operator.snapshot import read_snapshot


def decide(observed: Observed, now: datetime) -> Decision:
    """What to do about a job now."""
    if observed.job["metadata"].get("deletionTimestamp"):
        return Decision()  # owner references take the children along
    if managed_elsewhere(observed.job):
        return Decision()
    now = now.replace(microsecond=0)
    draft = Draft(observed.job, read_status(observed.job), now)
    if is_terminal(draft.status):
        return endings.finished(draft, observed)
    if observed.snapshot is None:
        return _accept(draft, observed)
    return _advance(RunState(draft, observed, read_snapshot(observed.snapshot)))


def _accept(draft: Draft, observed: Observed) -> Decision:
    """No snapshot yet: make one, or say why not."""
    draft.status.phase = draft.status.phase or Phase.PENDING
    if observed.foreign:
        draft.set(ConditionType.PODS_READY, "False", Reason.WAITING_FOR_PODS, in_the_way(observed.foreign))
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


def _advance(run: RunState) -> Decision:
    """The decision about an accepted job."""
    _set_facts(run)
    attempt = run.status.attempts[-1] if run.status.attempts else None
    if attempt is None:
        return _between_attempts(run)
    gang = gang_of(attempt, run.snapshot.replicas, run.observed)
    _set_results(run, gang)
    if attempt.end_time is not None:
        if attempt.exit_code is None:
            suspension.remember_exit(gang)
        return _between_attempts(run)
    return _during_attempt(run, gang)


# what is known


def _set_facts(run: RunState) -> None:
    changed = spec_change(run.observed.job, run.snapshot)
    reason = Reason.SPEC_CHANGED if changed else Reason.ACCEPTED
    run.draft.set(ConditionType.ACCEPTED, "True", reason, changed or "spec and runtime are valid and stored")
    run.status.snapshot = SnapshotStatus(name=run.snapshot.name, hash=run.snapshot.hash)
    run.status.objective = run.snapshot.objective
    run.status.gpus = run.snapshot.total_gpus


def _set_results(run: RunState, gang: Gang) -> None:
    status, attempt, report = run.status, gang.attempt, run.report_of(gang.attempt)
    if attempt.end_time is None and report is not None:
        merge_report(status, attempt, report)
        merge_health(status, report.health)
    if gang.words is not None:
        merge_last_words(status, attempt, gang.words)
        merge_health(status, gang.words.health, last_words=True)
    run.draft.set(ConditionType.HEALTHY, *healthy(status.health))
    if status.checkpoint is not None:
        message = "the newest verified checkpoint stands in status.checkpoint"
        run.draft.set(ConditionType.CHECKPOINTED, "True", Reason.CHECKPOINT_SAVED, message)
    else:
        message = "no verified checkpoint exists yet"
        run.draft.set(ConditionType.CHECKPOINTED, "False", Reason.NO_CHECKPOINT, message)
    text = grace_warning(run.policy, status.save_seconds)
    if text and text != grace_warning(run.policy, run.draft.stored.save_seconds):
        run.draft.news.append(PostEvent("Warning", Reason.GRACE_PERIOD_TOO_SHORT, text, "save"))


# an attempt is open


def _during_attempt(run: RunState, gang: Gang) -> Decision:
    attempt = gang.attempt
    if attempt.running_time is None and gang.running_since is not None:
        attempt.running_time = max(gang.running_since, attempt.start_time or gang.running_since)
    if gang.succeeded:
        return endings.complete(run, gang)
    stopping = run.policy.suspend or run.status.phase == Phase.SUSPENDING
    finding = cause_of_end(gang, run.observed)
    response = endings.response_to(run, finding) if finding is not None else None
    settling = seconds_to_settle(finding, gang.pods, run.now) if finding is not None else 0.0
    if finding is not None and response is not None and response.answer in (Answer.FAIL, Answer.SUSPEND):
        # While pods are being stopped, only what they did themselves is held against the job.
        certain = finding.rank == Rank.OWN_FAULT or (not stopping and settling <= 0)
        if certain:
            return endings.end_badly(run, gang, finding, response)
    if stopping:
        return suspension.stop_attempt(run, gang) or _between_attempts(run)
    deadline_left = _deadline_left(run)
    if deadline_left is not None and deadline_left <= 0:
        return endings.deadline_exceeded(run, gang)
    if finding is not None and response is not None:
        if settling > 0:
            return run.go_on([], after=settling)
        return endings.end_badly(run, gang, finding, response)
    overdue, left = _overdue(run, gang)
    if overdue is not None:
        return endings.end_badly(run, gang, overdue, endings.response_to(run, overdue))
    return keep_going(run, gang, soonest(deadline_left, left))


def _deadline_left(run: RunState) -> float | None:
    if run.policy.active_deadline_seconds is None:
        return None
    return run.policy.active_deadline_seconds - usage.active_seconds(run.status, run.now)


def _overdue(run: RunState, gang: Gang) -> tuple[Finding | None, float | None]:
    """Why an attempt whose pods all live is given up, or else the seconds until that may be."""
    policy, now = run.policy, run.now
    lost, node_left = node_loss(gang.pods, run.observed.nodes, policy.node_lost_timeout_seconds, now)
    if lost is not None:
        return lost, None
    pending_left = deadlines.pending_left(gang, policy, now)
    if pending_left is not None and pending_left <= 0:
        _, explanation = explain(
            gang.pods, run.observed.warnings, run.observed.refusals, gang.replicas, run.observed.capacity
        )
        return deadlines.pending_finding(gang, policy, explanation), None
    step_left = deadlines.first_step_left(gang, run.report_of(gang.attempt), policy, now)
    if step_left is not None and step_left <= 0:
        return deadlines.first_step_finding(gang, policy), None
    observed, report = run.observed, run.report_of(gang.attempt)
    stalled, stall_left = stall_finding(gang, report, observed.silent_seconds, observed.log_tails, policy, now)
    return stalled, soonest(node_left, pending_left, step_left, stall_left)


# between attempts


def _between_attempts(run: RunState) -> Decision:
    """No attempt is open: suspended, waiting for pods to be gone, in backoff, or ready to start the next."""
    status, pods = run.status, run.observed.pods
    queueing.give_back_quota(run.draft, Reason.WAITING_FOR_QUOTA, "the next attempt asks for quota anew")
    if suspension.is_intended(run):
        return suspension.carry_out_intent(run)
    if run.policy.suspend:
        return suspension.stay_suspended(run)
    suspension.tell_resumed(run)
    if unfinished(pods):
        status.phase = Phase.RESTARTING
        return run.go_on(run.stopping.delete(pods, run.now), after=run.stopping.check_after(pods, run.now))
    if status.next_attempt_time is not None and status.next_attempt_time > run.now:
        status.phase = Phase.RESTARTING
        return run.go_on([], after=(status.next_attempt_time - run.now).total_seconds())
    return _start(run)


def _start(run: RunState) -> Decision:
    """Opens the next attempt in the status; its children follow when that is stored."""
    status = run.status
    if run.observed.foreign:
        return wait_for_foreign(run)
    number = status.attempt + 1
    status.attempt, status.restarts = number, number - 1
    status.start_time = status.start_time or run.now
    status.next_attempt_time = None
    status.phase = Phase.STARTING
    status.attempts = [*status.attempts, Attempt(number=number, start_time=run.now)][-ATTEMPTS_KEPT:]
    status.excluded_nodes = [node for node in status.excluded_nodes if node.until > run.now]
    message = f"0 of {run.snapshot.replicas} pods run"
    run.draft.set(ConditionType.PODS_READY, "False", Reason.WAITING_FOR_PODS, message)
    run.draft.set(ConditionType.RUNNING, "False", Reason.WAITING_FOR_PODS, "not all pods run yet")
    return run.go_on([], again=True)
