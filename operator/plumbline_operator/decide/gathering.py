"""An attempt comes to life: its Service, its pods, and what they wait for (pure)."""

from __future__ import annotations

from plumbline_api.conditions import ConditionType, Phase, Reason
from plumbline_operator.children import Placement, pod_manifest, service_manifest
from plumbline_operator.decide import node_exclusion, queueing
from plumbline_operator.decide.attempts import Gang
from plumbline_operator.decide.conditions import condition_of, holds
from plumbline_operator.decide.grace import grace_seconds
from plumbline_operator.decide.pending import REFUSAL_REASONS, explain
from plumbline_operator.decide.preemption_cost import tell_checkpoint
from plumbline_operator.decide.progress import is_training
from plumbline_operator.decide.run_state import RunState, soonest
from plumbline_operator.model import Apply, Decision, Delete
from plumbline_operator.resources import PODS, SERVICES

REFUSAL_RETRY_SECONDS = 5.0
"""Kubernetes tells nobody when a quota is raised or an admission policy relaxed: ask again."""
FOREIGN_RETRY_SECONDS = 2.0


def keep_going(run: RunState, gang: Gang, check_after: float | None) -> Decision:
    """The attempt is open and nothing speaks against it: make what is missing, tell how it stands."""
    attempt, observed = gang.attempt, run.observed
    service = next((view for view in observed.services if view.attempt == attempt.number), None)
    if attempt.running_time is None and (service is None or not service.cluster_ip) and not observed.refusals:
        if observed.foreign:
            return wait_for_foreign(run)
        return run.go_on([Apply(SERVICES, service_manifest(observed.job, attempt.number))], again=True)
    clearing = _clear_earlier_attempts(run, attempt.number)
    outdated = node_exclusion.outdated_pods(gang.pods, run.status.excluded_nodes, run.now)
    if outdated:
        return run.go_on([*clearing, *(Delete(PODS, pod.name, pod.uid) for pod in outdated)], again=True)
    creates: list[Apply] = []
    if attempt.running_time is None and service is not None:
        placement = placement_of(run)
        creates = [
            Apply(
                PODS,
                pod_manifest(observed.job, run.snapshot, placement, attempt.number, rank, service.cluster_ip),
            )
            for rank in gang.missing
        ]
    # Creating what was refused before is a question whose answer comes later in this reconciliation: until then the
    # refusal stays told. A status that changed with the question and again with the answer would be two writes, each
    # of them an event that asks the question anew, without end.
    asked_again = bool(creates) and not observed.refusals and _was_refused(run)
    if not asked_again:
        _describe_pods(run, gang)
    after = soonest(check_after, _next_expiry(run, gang))
    if observed.refusals:
        # What is refused is not asked for twice in one reconciliation.
        creates, after = [], soonest(REFUSAL_RETRY_SECONDS, after)
    told = tell_checkpoint(gang, run.status.checkpoint)
    return run.go_on([*clearing, *creates, *told], after=after, again=asked_again)


def placement_of(run: RunState) -> Placement:
    """What the pods that are made now get besides the snapshot's template."""
    policy = run.policy
    avoided = node_exclusion.in_force(run.status.excluded_nodes, policy.node_exclusion, run.now)
    return Placement(
        scheduling=run.scheduling,
        node_lost_seconds=policy.node_lost_timeout_seconds,
        grace_seconds=grace_seconds(policy, run.status.save_seconds),
        node_affinity=node_exclusion.node_affinity(avoided, policy.node_exclusion.mode) if avoided else None,
    )


def wait_for_foreign(run: RunState) -> Decision:
    """Something of somebody else has a name that the job needs."""
    message = in_the_way(run.observed.foreign)
    run.draft.set(ConditionType.PODS_READY, "False", Reason.WAITING_FOR_PODS, message)
    return run.go_on([], after=FOREIGN_RETRY_SECONDS)


def in_the_way(foreign: tuple[str, ...]) -> str:
    return f"{', '.join(foreign[:3])} must be gone first: not of this job, under a name that this job needs"


def _next_expiry(run: RunState, gang: Gang) -> float | None:
    """When pods that wait for a node may have one more to choose from."""
    if not any(not pod.scheduled for pod in gang.pods):
        return None
    return node_exclusion.next_expiry(run.status.excluded_nodes, run.now)


def _was_refused(run: RunState) -> bool:
    condition = condition_of(run.status, ConditionType.PODS_READY)
    return condition is not None and condition.reason in REFUSAL_REASONS


def _clear_earlier_attempts(run: RunState, number: int) -> list[Delete]:
    """The pods of a failed attempt are kept for their logs only until the next one is under way."""
    pods = [Delete(PODS, pod.name, pod.uid) for pod in run.observed.pods if pod.attempt < number]
    services = [view for view in run.observed.services if view.attempt < number]
    return pods + [Delete(SERVICES, view.name, view.uid) for view in services]


def _describe_pods(run: RunState, gang: Gang) -> None:
    draft, status = run.draft, run.status
    queueing.show_quota(draft, gang, run.scheduling)
    if gang.attempt.running_time is None:
        if queueing.waits_for_admission(gang) and not run.observed.refusals:
            status.phase = Phase.QUEUED
            reason, message = Reason.WAITING_FOR_QUOTA, "the pods are held until Kueue admits them"
        else:
            status.phase = Phase.STARTING
            reason, message = explain(
                gang.pods, run.observed.warnings, run.observed.refusals, gang.replicas, run.observed.capacity
            )
        draft.set(ConditionType.PODS_READY, "False", reason, message)
        draft.set(ConditionType.RUNNING, "False", Reason.WAITING_FOR_PODS, "not all pods run yet")
        return
    status.phase = Phase.RUNNING
    draft.set(ConditionType.PODS_READY, "True", Reason.PODS_RUNNING, f"{gang.replicas} of {gang.replicas} pods run")
    if is_training(run.report_of(gang.attempt)) or holds(status, ConditionType.RUNNING):
        draft.set(ConditionType.RUNNING, "True", Reason.TRAINING, "the trainer reports steps")
    else:
        draft.set(ConditionType.RUNNING, "False", Reason.PODS_RUNNING, "the pods run, the trainer has not reported yet")
