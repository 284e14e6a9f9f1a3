"""How attempts and jobs end: what is written, and what follows (pure)."""

from __future__ import annotations

from datetime import timedelta

from plumbline_api.conditions import ConditionType, Phase, Reason
from plumbline_api.run_policy import RunPolicy
from plumbline_operator.decide import queueing, usage
from plumbline_operator.decide.attempts import Gang, Stopping, failure_of, next_start
from plumbline_operator.decide.diagnosis import Finding, Rank
from plumbline_operator.decide.draft import Draft
from plumbline_operator.decide.node_exclusion import exclude
from plumbline_operator.decide.restart_rules import Answer, Response, respond
from plumbline_operator.decide.run_state import RunState, soonest
from plumbline_operator.model import Decision, Delete, DeleteJob, Observed
from plumbline_operator.resources import SERVICES


def response_to(run: RunState, finding: Finding) -> Response:
    """What the job's rules, and after them the contract, say about an end."""
    pod = finding.pod
    log_tail = run.observed.log_tails.get(pod.name, "") if pod is not None else ""
    return respond(finding, log_tail, run.policy.restart_rules)


def complete(run: RunState, gang: Gang) -> Decision:
    """All pods have succeeded."""
    usage.close_attempt(run.status, gang.attempt, run.now)
    gang.attempt.reason, gang.attempt.exit_code = Reason.COMPLETED, 0
    where = f"; the model is in {run.status.output.uri}" if run.status.output else ""
    return _end_job(run, gang, ConditionType.COMPLETE, Reason.COMPLETED, f"training finished{where}")


def end_badly(run: RunState, gang: Gang, finding: Finding, response: Response) -> Decision:
    """Does what was answered to a finding."""
    if response.answer == Answer.FAIL:
        because = f" ({response.said_by} says Fail)" if response.said_by else ""
        return fail(run, gang, finding, response, f"{finding.message}{because}")
    if response.answer == Answer.SUSPEND:
        return _suspend(run, gang, finding, response)
    return _restart(run, gang, finding, response)


def fail(run: RunState, gang: Gang, finding: Finding, response: Response, message: str) -> Decision:
    """The last attempt of the job."""
    _close(run, gang, finding, response)
    return _end_job(run, gang, ConditionType.FAILED, finding.reason, message)


def deadline_exceeded(run: RunState, gang: Gang) -> Decision:
    """The job has had all the time that it may take. No rule is asked: rules are about one attempt."""
    limit = run.policy.active_deadline_seconds
    message = f"the pods ran longer than runPolicy.activeDeadlineSeconds, {limit} s"
    finding = Finding(Reason.DEADLINE_EXCEEDED, message, Rank.STOPPED)
    return fail(run, gang, finding, Response(Answer.FAIL), message)


def _restart(run: RunState, gang: Gang, finding: Finding, response: Response) -> Decision:
    attempt, status = gang.attempt, run.status
    if response.counts:
        status.failures += 1
    if status.failures > run.policy.backoff_limit:
        limit = f"runPolicy.backoffLimit is {run.policy.backoff_limit}"
        message = f"attempt {attempt.number} failed and {limit}: {finding.message}"
        return fail(run, gang, finding, response, message)
    _close(run, gang, finding, response)
    status.next_attempt_time = next_start(run.policy, response, status, attempt, run.uid, run.now)
    status.phase = Phase.RESTARTING
    wait = round((status.next_attempt_time - run.now).total_seconds())
    when = f"the next starts in {wait} s" if wait > 0 else "the next starts at once"
    because = f" by {response.said_by}" if response.said_by else ""
    message = f"attempt {attempt.number} ended ({finding.reason}): {finding.message}; {when}{because}"
    run.draft.set(ConditionType.PODS_READY, "False", Reason.BACKING_OFF, message)
    run.draft.set(ConditionType.RUNNING, "False", finding.reason, finding.message)
    return run.go_on(run.stopping.delete(gang.pods, run.now), after=max(wait, 0.1))


def _suspend(run: RunState, gang: Gang, finding: Finding, response: Response) -> Decision:
    """Writes the intent to suspend; the spec follows in the next decision, which finds it (see `suspension`)."""
    _close(run, gang, finding, response)
    by_guardrail = finding.reason == Reason.SUSPENDED_BY_GUARDRAIL
    reason = Reason.SUSPENDED_BY_GUARDRAIL if by_guardrail else Reason.SUSPENDED_BY_RULE
    said_by = f" by {response.said_by}" if response.said_by else ""
    message = f"suspended{said_by} when attempt {gang.attempt.number} ended ({finding.reason}): {finding.message}"
    run.draft.set(ConditionType.SUSPENDED, "False", reason, message)
    for condition in (ConditionType.PODS_READY, ConditionType.RUNNING):
        run.draft.set(condition, "False", reason, "the job is suspended")
    run.status.phase = Phase.SUSPENDING
    return run.go_on(run.stopping.delete(gang.pods, run.now), again=True)


def _close(run: RunState, gang: Gang, finding: Finding, response: Response) -> None:
    attempt, status = gang.attempt, run.status
    usage.close_attempt(status, attempt, run.now)
    attempt.reason = finding.reason
    attempt.node = finding.pod.node if finding.pod is not None else ""
    attempt.exit_code = finding.exit_code
    attempt.counts_towards_limit = response.counts
    status.last_failure = failure_of(finding, attempt.number, run.observed, run.now)
    status.excluded_nodes = exclude(status.excluded_nodes, status.attempts, run.policy.node_exclusion, run.now)


def _end_job(run: RunState, gang: Gang, verdict: ConditionType, reason: Reason, message: str) -> Decision:
    run.draft.set(verdict, "True", reason, message)
    for condition in (ConditionType.PODS_READY, ConditionType.RUNNING):
        run.draft.set(condition, "False", reason, "the job has ended")
    queueing.give_back_quota(run.draft, reason, "the job has ended")
    run.status.phase = Phase.COMPLETE if verdict == ConditionType.COMPLETE else Phase.FAILED
    run.status.completion_time = run.now
    run.status.next_attempt_time = None
    return run.go_on(run.stopping.delete(gang.pods, run.now), again=True)


def finished(draft: Draft, observed: Observed) -> Decision:
    """Complete or Failed: stop what still runs, keep ended pods for their logs, delete the job when its time is up."""
    policy = _policy_or_none(observed)
    stopping = Stopping(observed.nodes, (policy or RunPolicy()).node_lost_timeout_seconds)
    steps: list[Delete | DeleteJob] = [*stopping.delete(observed.pods, draft.now)]
    steps.extend(Delete(SERVICES, service.name, service.uid) for service in observed.services)
    after = stopping.check_after(observed.pods, draft.now)
    completion = draft.status.completion_time
    if policy is not None and policy.ttl_seconds_after_finished is not None and completion is not None:
        left = (completion + timedelta(seconds=policy.ttl_seconds_after_finished) - draft.now).total_seconds()
        if left <= 0:
            return Decision(steps=(*steps, DeleteJob(observed.job["metadata"]["uid"])))
        after = soonest(after, left)
    return Decision(steps=tuple(steps), requeue_after=after)


def _policy_or_none(observed: Observed) -> RunPolicy | None:
    try:
        return RunPolicy.model_validate(observed.job["spec"].get("runPolicy") or {})
    except ValueError:
        return None
