"""Events about what guardrails have done to a run (pure)."""

from __future__ import annotations

from plumbline_api.conditions import Reason
from plumbline_api.status import JobStatus
from plumbline_operator.model import PostEvent


def rollback_events(old: JobStatus, new: JobStatus) -> list[PostEvent]:
    """One event for the last rollback, where the stored status does not know of it.

    Rollbacks that came and went between two reports are counted in it. Its occasion is the rollback's number, so that
    it is told once, whoever tells it.
    """
    health = new.health
    if health is None or health.last_rollback is None:
        return []
    before = old.health.rollbacks if old.health is not None else 0
    if health.rollbacks <= before:
        return []
    last = health.last_rollback
    place = f"step {last.to_step}" if last.to_step else "the start"
    message = (
        f"rollback {last.number}: {last.signal} was beyond its bound at step {last.from_step}; the run goes on from "
        f"{place}, and {last.from_step - last.to_step} steps are done again"
    )
    return [PostEvent("Warning", Reason.ROLLED_BACK, message, f"rollback/{last.number}")]
