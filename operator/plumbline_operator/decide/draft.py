"""The status being written: begins as a copy of the stored one, ends as the steps that store it (pure)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from plumbline_api.conditions import ConditionType, Phase
from plumbline_api.status import JobStatus
from plumbline_operator.decide.conditions import (
    Status,
    checkpoint_events,
    exclusion_events,
    leading_reason,
    set_condition,
    transition_events,
    warning_events,
)
from plumbline_operator.decide.guardrails import rollback_events
from plumbline_operator.decide.progress import is_urgent
from plumbline_operator.model import Decision, PostEvent, Step, WriteStatus

_LEADING: dict[str, tuple[ConditionType, ...]] = {
    Phase.PENDING: (ConditionType.ACCEPTED, ConditionType.PODS_READY),
    Phase.QUEUED: (ConditionType.QUOTA_RESERVED,),
    Phase.STARTING: (ConditionType.PODS_READY,),
    Phase.RUNNING: (ConditionType.RUNNING,),
    Phase.RESTARTING: (ConditionType.RUNNING,),
    Phase.SUSPENDING: (ConditionType.SUSPENDED,),
    Phase.SUSPENDED: (ConditionType.SUSPENDED,),
    Phase.COMPLETE: (ConditionType.COMPLETE,),
    Phase.FAILED: (ConditionType.FAILED,),
}
"""Condition whose reason stands in the printer column, by phase."""


def read_status(job: Mapping[str, Any]) -> JobStatus:
    """The stored status, as far as this version can read it; what it can, the verdict above all, counts.

    A newer operator may have written fields that this one does not know: exactly those are left out, for without the
    attempts around them the pods that run would be of no attempt. What is unreadable otherwise takes its block along.
    """
    document = job.get("status") or {}
    try:
        return JobStatus.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    document = copy.deepcopy(dict(document))
    while True:
        for one in found:
            if one["type"] != "extra_forbidden" or not _removed(document, one["loc"]):
                document.pop(str(one["loc"][0]), None)
        try:
            return JobStatus.model_validate(document)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)


def _removed(document: Any, path: Sequence[int | str]) -> bool:
    """Removes the field at the end of the path, in place; False when there is none."""
    for part in path[:-1]:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return False
    if not isinstance(document, dict) or path[-1] not in document:
        return False
    del document[path[-1]]
    return True


class Draft:
    """A status under way."""

    def __init__(self, job: Mapping[str, Any], stored: JobStatus, now: datetime) -> None:
        self.now = now
        self.generation: int | None = job["metadata"].get("generation")
        self.stored = stored
        self.status = stored.model_copy(deep=True)
        self.news: list[PostEvent] = []
        """Events that do not follow from a comparison of the two; told only along with a change of the status."""

    def set(self, type_: ConditionType, value: Status, reason: str, message: str) -> None:
        """Sets a condition."""
        set_condition(self.status, type_, value, reason, message, self.now, self.generation)

    def decision(self, *steps: Step, requeue_after: float | None = None, again: bool = False) -> Decision:
        """Events, then the status if it changed, then the steps."""
        self.status.observed_generation = self.generation
        self.status.reason = leading_reason(self.status, _LEADING.get(self.status.phase, ()))
        first: list[Step] = []
        # The bill grows every second. It is written along with what is new, and is no reason to write by itself: the
        # write would come back as an event, and the next reconciliation would find the bill grown again.
        if self.status.model_copy(update={"usage": None}) != self.stored.model_copy(update={"usage": None}):
            first.extend(transition_events(self.stored, self.status))
            first.extend(warning_events(self.stored, self.status))
            first.extend(self.news)
            first.extend(rollback_events(self.stored, self.status))
            first.extend(checkpoint_events(self.stored, self.status))
            first.extend(exclusion_events(self.stored, self.status))
            first.append(WriteStatus(self.status, urgent=is_urgent(self.stored, self.status)))
        return Decision(steps=(*first, *steps), requeue_after=requeue_after, again=again)
