"""Whether an event that the operator caused itself asks for another look."""

from __future__ import annotations

import pytest

from plumbline_api.status import JobStatus
from plumbline_operator.apply import Applied
from plumbline_operator.model import Decision, Observed, Step, WriteStatus
from plumbline_operator.reconcile import seen_versions

PROGRESS = WriteStatus(JobStatus(), urgent=False)
TURN = WriteStatus(JobStatus(), urgent=True)


@pytest.mark.parametrize(
    ("steps", "version"),
    [((), "5"), ((PROGRESS,), "5"), ((TURN,), "4"), ((PROGRESS, TURN), "4")],
    ids=["nothing to write", "progress", "a turn of the run", "both"],
)
def test_what_was_written_of_progress_is_seen_and_what_turned_the_run_is_looked_at_again(
    steps: tuple[Step, ...], version: str
) -> None:
    observed = Observed(job={"metadata": {"uid": "job"}}, versions={"job": "4", "pod": "9"})
    seen = seen_versions(observed, Decision(steps), Applied((), "5"))
    assert seen == {"job": version, "pod": "9"}
