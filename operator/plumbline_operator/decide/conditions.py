"""Reading and setting conditions, and the events that tell of their transitions (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from plumbline_api.conditions import ConditionType, Reason
from plumbline_api.status import Condition, JobStatus
from plumbline_operator.model import PostEvent

Status = Literal["True", "False", "Unknown"]
MESSAGE_LIMIT = 4096

_QUIET = frozenset(
    {
        # what follows at once tells more: that the trainer reports steps, or why it does not
        Reason.PODS_RUNNING,
        Reason.NO_CHECKPOINT,
        Reason.WAITING_FOR_PODS,
        Reason.NOT_MEASURED,
    }
)
"""Reasons that say nothing new to the reader of the events."""

_NORMAL = frozenset(
    {
        Reason.ACCEPTED,
        Reason.PODS_CREATED,
        Reason.PODS_RUNNING,
        Reason.TRAINING,
        Reason.WAITING_FOR_QUOTA,
        Reason.QUOTA_RESERVED,
        Reason.SUSPENDED_BY_USER,
        Reason.RESUMED,
        Reason.CHECKPOINT_SAVED,
        Reason.HEALTHY,
        Reason.COMPLETED,
        Reason.STOPPED_SAVED,
    }
)


_VERDICTS = frozenset({ConditionType.COMPLETE, ConditionType.FAILED, ConditionType.SUSPENDED})


def condition_of(status: JobStatus, type_: ConditionType) -> Condition | None:
    return next((condition for condition in status.conditions if condition.type == type_), None)


def holds(status: JobStatus, type_: ConditionType) -> bool:
    """Whether the condition is present and true."""
    condition = condition_of(status, type_)
    return condition is not None and condition.status == "True"


def is_terminal(status: JobStatus) -> bool:
    """Complete and Failed are final: nothing after them changes the verdict."""
    return holds(status, ConditionType.COMPLETE) or holds(status, ConditionType.FAILED)


def set_condition(
    status: JobStatus,
    type_: ConditionType,
    value: Status,
    reason: str,
    message: str,
    now: datetime,
    generation: int | None,
) -> None:
    """Sets a condition in place; its transition time moves only when its status does, as metav1.Condition wants."""
    old = condition_of(status, type_)
    changed = old is None or old.status != value
    new = Condition(
        type=type_,
        status=value,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        last_transition_time=now.replace(microsecond=0) if old is None or changed else old.last_transition_time,
        observed_generation=generation,
    )
    if old is None:
        status.conditions.append(new)
    else:
        status.conditions[status.conditions.index(old)] = new


def transition_events(old: JobStatus, new: JobStatus) -> list[PostEvent]:
    """One event for each reason that a condition newly has; the same reason on two conditions is told once.

    The occasion is named by the state that is left, which stays the same until the new status is stored: an operator
    that dies between posting and storing posts the very same event again, and the API server has it already.
    """
    events: list[PostEvent] = []
    told: set[str] = set()
    # A verdict is told in its own words, not in those of a condition that follows from it.
    for condition in sorted(new.conditions, key=lambda condition: condition.type not in _VERDICTS):
        before = condition_of(old, ConditionType(condition.type))
        if before is not None and before.reason == condition.reason and _says_the_same(before, condition):
            continue
        if condition.reason in told or condition.reason in _QUIET:
            continue
        told.add(condition.reason)
        left = f"{before.status}/{before.reason}/{before.last_transition_time.isoformat()}" if before else "absent"
        events.append(
            PostEvent(
                type="Normal" if condition.reason in _NORMAL else "Warning",
                reason=condition.reason,
                message=condition.message,
                occasion=f"{condition.type}/{old.attempt}/{left}",
            )
        )
    return events


def _says_the_same(before: Condition, now: Condition) -> bool:
    """Of two conditions with one reason: whether the second is no news, such as a suspension that is now complete."""
    return before.status == now.status or before.message == now.message


def warning_events(old: JobStatus, new: JobStatus) -> list[PostEvent]:
    """One event for each warning of the trainer that the stored status does not know."""
    return [
        PostEvent(type="Warning", reason=Reason.TRAINER_WARNING, message=text, occasion="trainer")
        for text in new.warnings
        if text not in old.warnings
    ]


def checkpoint_events(old: JobStatus, new: JobStatus) -> list[PostEvent]:
    """One event for each damaged checkpoint that the stored status does not know."""
    return [
        PostEvent(type="Warning", reason=Reason.CHECKPOINT_DAMAGED, message=text, occasion="trainer")
        for text in new.damaged_checkpoints
        if text not in old.damaged_checkpoints
    ]


def exclusion_events(old: JobStatus, new: JobStatus) -> list[PostEvent]:
    """One event for each node that is newly avoided, or for longer."""
    known = {(node.name, node.attempt) for node in old.excluded_nodes}
    return [
        PostEvent(
            type="Warning",
            reason=Reason.NODE_EXCLUDED,
            message=(
                f"attempt {node.attempt} ended on node {node.name} ({node.reason}):"
                f" avoided until {node.until:%Y-%m-%d %H:%M} UTC"
            ),
            occasion=f"attempt {node.attempt}",
        )
        for node in new.excluded_nodes
        if (node.name, node.attempt) not in known
    ]


def leading_reason(status: JobStatus, order: Sequence[ConditionType]) -> str:
    """Reason of the first condition of `order` that is there, for the printer column."""
    return next((found.reason for type_ in order if (found := condition_of(status, type_)) is not None), "")
