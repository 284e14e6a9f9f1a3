"""What of a first report an operator that starts takes for known, from the status that the one before it has stored."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline_api.contract import StatusReport
from plumbline_api.status import JobStatus
from plumbline_operator.report_news import StoredWord

CHECKPOINT = {"step": 4, "uri": "/out/checkpoint-4", "time": "2030-01-01T00:00:00Z", "digest": "a", "verified": True}
BROKEN = {"signals": [{"signal": "kl", "action": "Warn", "windowSteps": 10, "brokenSince": 3}]}
CALM = {"signals": [{"signal": "kl", "action": "Warn", "windowSteps": 10, "value": 0.5}]}
NOON = "2030-01-01T12:00:00Z"
RUNNING = {"conditions": [{"type": "Running", "status": "True", "reason": "Training", "lastTransitionTime": NOON}]}
STALL = {"since": "2030-01-01T00:00:00Z", "deadlineSeconds": 300, "state": "training"}


def word(**status: Any) -> StoredWord:
    document = {"attempt": 2, "attempts": [{"number": 1, "toStep": 9}, {"number": 2, "toStep": 3}], **RUNNING}
    return StoredWord.of(JobStatus.model_validate(document | status), 2)


def says(**fields: Any) -> StatusReport:
    return StatusReport.model_validate({"attempt": 2, "state": "training", "step": 5} | fields)


@pytest.mark.parametrize(
    ("status", "report"),
    [
        ({}, {"metrics": [{"name": "loss", "value": 1.5}]}),
        ({}, {"state": "checkpointing"}),
        ({"warnings": ["a", "b"]}, {"warnings": ["b"]}),
        ({"checkpoint": CHECKPOINT}, {"checkpoint": CHECKPOINT | {"step": 5}}),
        ({"checkpoint": CHECKPOINT}, {}),
        ({"health": BROKEN}, {"health": BROKEN}),
        ({}, {"health": CALM}),
    ],
    ids=str,
)
def test_figures_and_what_is_stored_are_no_news(status: dict[str, Any], report: dict[str, Any]) -> None:
    assert word(**status).knows(says(**report))


@pytest.mark.parametrize(
    ("status", "report"),
    [
        ({"attempts": [{"number": 1, "toStep": 9}, {"number": 2}]}, {}),
        ({"conditions": []}, {}),
        ({}, {"state": "starting"}),
        ({"warnings": ["a"]}, {"warnings": ["a", "b"]}),
        ({}, {"checkpoint": CHECKPOINT}),
        ({"health": CALM}, {"health": BROKEN}),
        ({"health": BROKEN}, {"health": CALM}),
        ({"health": CALM}, {"health": CALM | {"rollbacks": 1}}),
        ({}, {"stall": STALL}),
    ],
    ids=str,
)
def test_what_no_operator_has_stored_is_news(status: dict[str, Any], report: dict[str, Any]) -> None:
    assert not word(**status).knows(says(**report))
