"""What a real cluster said about faults, recorded by `make faults ARGS=--record`: the reason is read from it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plumbline_operator.capacity import capacities
from plumbline_operator.decide.diagnosis import Evidence, diagnose_gang
from plumbline_operator.decide.pending import explain
from plumbline_operator.model import PodEvent
from plumbline_operator.pods import read_pod

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
WITHOUT_A_DEAD_POD = ("Stalled", "DeadlineExceeded")
"""The operator ends these runs; their pods say nothing."""


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _events(document: dict[str, Any]) -> tuple[PodEvent, ...]:
    return tuple(
        PodEvent(event["pod"], event["uid"], event["reason"] or "", event["message"] or "")
        for event in document["events"]
    )


def test_there_are_recordings() -> None:
    assert len(RECORDED) >= 15


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_fault_has_its_reason(path: Path) -> None:
    document = _read(path)
    pods = [read_pod(pod) for pod in document["pods"]]
    if document["tells"] == "PodsReady":
        nodes = capacities(document["nodes"].values(), None)
        reason, message = explain(pods, _events(document), [], len(pods), nodes)
        assert (reason, bool(message)) == (document["reason"], True)
        return
    if document["reason"] in WITHOUT_A_DEAD_POD:
        pytest.skip("the operator ended this run")
    ready = {
        name: any(entry["status"] == "True" for entry in node["status"]["conditions"])
        for name, node in document["nodes"].items()
    }
    if document["reason"] == "NodeLost":
        ready["node2"] = False  # it was back when the recording was made
    finding = diagnose_gang(pods, Evidence(ready, document["log"], _events(document)))
    assert finding is not None
    assert finding.reason == document["reason"]
