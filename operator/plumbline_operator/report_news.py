"""What of a trainer's report deserves to be told at once, and what can wait for the next word of progress (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from plumbline_api.conditions import ConditionType
from plumbline_api.contract import StatusReport
from plumbline_api.status import Health, JobStatus
from plumbline_operator.decide.conditions import holds
from plumbline_operator.decide.progress import WARNING_LIMIT, is_training


@dataclass(frozen=True)
class StoredWord:
    """What the stored status knows from reports of one attempt.

    An operator that starts, or takes over, hears thousands of first reports: those that tell nothing that the one
    before it has not stored are no news.
    """

    trains: bool
    warnings: frozenset[str]
    broken: tuple[int, tuple[tuple[str, str], ...]]
    has_checkpoint: bool

    @classmethod
    def of(cls, status: JobStatus, attempt: int) -> Self:
        """The word of the attempt of this number."""
        heard = any(one.number == attempt and one.to_step is not None for one in status.attempts)
        trains = heard and holds(status, ConditionType.RUNNING)
        return cls(trains, frozenset(status.warnings), _broken(status.health), status.checkpoint is not None)

    def knows(self, report: StatusReport) -> bool:
        """Whether the report tells nothing but figures beyond this."""
        return (
            self.trains
            and is_training(report)
            and report.stall is None
            and self.warnings.issuperset(text[:WARNING_LIMIT] for text in report.warnings)
            and (report.health is None or _broken(report.health) == self.broken)
            and (report.checkpoint is None or self.has_checkpoint)
        )


def is_news(before: StatusReport, report: StatusReport) -> bool:
    """Whether more than figures has changed from one report to the next."""
    return (
        before.state != report.state
        or before.warnings != report.warnings
        or (before.stall is None) != (report.stall is None)
        or _broken(before.health) != _broken(report.health)
        or (before.checkpoint is None) != (report.checkpoint is None)
    )


def _broken(health: Health | None) -> tuple[int, tuple[tuple[str, str], ...]]:
    """What of a report's health deserves to be told at once: rollbacks, and which guardrails are broken."""
    if health is None:
        return 0, ()
    return health.rollbacks, tuple((one.signal, one.action) for one in health.signals if one.broken_since is not None)
