"""Whether a job waits for Kueue to admit its pods (pure). What Kueue reads on them is in `kueue`."""

from __future__ import annotations

from plumbline_api.conditions import ConditionType, Reason
from plumbline_api.scheduling import Scheduling
from plumbline_operator.decide.attempts import Gang
from plumbline_operator.decide.conditions import condition_of
from plumbline_operator.decide.draft import Draft
from plumbline_operator.kueue import ADMISSION_GATE


def waits_for_admission(gang: Gang) -> bool:
    """Whether Kueue still holds a pod of the attempt."""
    return any(ADMISSION_GATE in pod.gates for pod in gang.pods)


def show_quota(draft: Draft, gang: Gang, scheduling: Scheduling) -> None:
    """Sets the condition QuotaReserved of a job that has a queue, or had one."""
    if waits_for_admission(gang):
        message = f"{gang.replicas} pods wait for admission by Kueue in queue {scheduling.queue or '?'}"
        draft.set(ConditionType.QUOTA_RESERVED, "False", Reason.WAITING_FOR_QUOTA, message)
    elif gang.pods and scheduling.queue is not None and not gang.missing:
        message = f"Kueue has admitted the pods in queue {scheduling.queue}"
        draft.set(ConditionType.QUOTA_RESERVED, "True", Reason.QUOTA_RESERVED, message)


def give_back_quota(draft: Draft, reason: Reason, message: str) -> None:
    """Between attempts, and after the last one, no quota is held."""
    if condition_of(draft.status, ConditionType.QUOTA_RESERVED) is not None:
        draft.set(ConditionType.QUOTA_RESERVED, "False", reason, message)
