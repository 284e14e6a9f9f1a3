"""Suspended jobs: by their user, by one of their rules, or by a guardrail (pure).

The user's own switch, `spec.runPolicy.suspend`, is the only one: a rule that suspends turns it, and whoever turns it
back resumes the job. The intent is in the status first. As long as the spec is of the generation that the intent was
written on, the switch has not been turned; once it has been, a switch that is off was turned off by somebody.
"""

from __future__ import annotations

from plumbline_api.conditions import ConditionType, Phase, Reason
from plumbline_api.contract import EXIT_REASONS, ExitCode
from plumbline_operator.decide import usage
from plumbline_operator.decide.attempts import Gang, unfinished
from plumbline_operator.decide.conditions import Status, condition_of
from plumbline_operator.decide.run_state import RunState
from plumbline_operator.model import Decision, SuspendJob

_BY_OPERATOR = frozenset({Reason.SUSPENDED_BY_RULE, Reason.SUSPENDED_BY_GUARDRAIL})


def is_intended(run: RunState) -> bool:
    """Whether a rule suspended the job and the spec does not say so yet."""
    condition = condition_of(run.draft.stored, ConditionType.SUSPENDED)
    return (
        not run.policy.suspend
        and condition is not None
        and condition.reason in _BY_OPERATOR
        and condition.observed_generation == run.draft.generation
    )


def carry_out_intent(run: RunState) -> Decision:
    """Turns the switch in the spec; its new generation brings the job back."""
    return run.go_on([SuspendJob(), *run.stopping.delete(run.observed.pods, run.now)], again=True)


def stop_attempt(run: RunState, gang: Gang) -> Decision | None:
    """SIGTERM, save, exit: the attempt stays open until its pods are gone, and does not count whatever they say. None
    once it is closed."""
    remember_exit(gang)
    if unfinished(gang.pods):
        run.status.phase = Phase.SUSPENDING
        run.draft.set(ConditionType.SUSPENDED, "False", Reason.SUSPENDED_BY_USER, "the pods save a checkpoint and stop")
        stops = run.stopping.delete(gang.pods, run.now)
        return run.go_on(stops, after=run.stopping.check_after(gang.pods, run.now))
    attempt = gang.attempt
    attempt.reason = attempt.reason or Reason.SUSPENDED_BY_USER
    usage.close_attempt(run.status, attempt, run.now)
    return None


def remember_exit(gang: Gang) -> None:
    """Pods that were deleted say on their way out whether they have saved."""
    attempt = gang.attempt
    ended = [c for pod in (*gang.pods, *gang.departed) if (c := pod.failed_container) is not None]
    for container in ended[:1]:  # in order of rank
        attempt.exit_code = code = container.exit_code
        if attempt.reason in ("", Reason.SUSPENDED_BY_USER):
            attempt.reason = EXIT_REASONS[ExitCode(code)] if code in EXIT_REASONS else Reason.KILLED


def stay_suspended(run: RunState) -> Decision:
    """No attempt is open, and none is to be."""
    status, draft, pods = run.status, run.draft, run.observed.pods
    left_over = unfinished(pods)
    status.phase = Phase.SUSPENDING if left_over else Phase.SUSPENDED
    status.next_attempt_time = None
    suspended: Status = "False" if left_over else "True"
    before = condition_of(draft.stored, ConditionType.SUSPENDED)
    if before is not None and before.reason in _BY_OPERATOR:
        reason, message = before.reason, before.message
    else:
        reason, message = Reason.SUSPENDED_BY_USER, "spec.runPolicy.suspend is true"
    draft.set(ConditionType.SUSPENDED, suspended, reason, message)
    for condition in (ConditionType.PODS_READY, ConditionType.RUNNING):
        draft.set(condition, "False", reason, "the job is suspended")
    return run.go_on(run.stopping.delete(pods, run.now), after=run.stopping.check_after(pods, run.now))


def tell_resumed(run: RunState) -> None:
    """A job that was suspended once says that it is not any more."""
    if condition_of(run.status, ConditionType.SUSPENDED) is not None:
        run.draft.set(ConditionType.SUSPENDED, "False", Reason.RESUMED, "spec.runPolicy.suspend is false again")
