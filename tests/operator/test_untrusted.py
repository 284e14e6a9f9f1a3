"""What a hostile trainer may say: refused, or harmless in everything that is made of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline_api.contract import StatusReport, TerminationMessage
from plumbline_api.status import Attempt, JobStatus
from plumbline_operator.decide.progress import merge_last_words, merge_report
from plumbline_operator.untrusted import LARGEST_WHOLE_NUMBER, read_last_words, read_report

CHECKPOINT = {"step": 3, "time": "2026-01-01T00:00:00Z", "uri": "pvc://c", "digest": "sha256:1", "verified": True}


def report(**fields: Any) -> bytes:
    return json.dumps({"state": "training", "step": 3, "maxSteps": 9, **fields}).encode()


def test_an_honest_report_is_read_as_it_is() -> None:
    said = StatusReport.model_validate(
        {
            "state": "training", "step": 7, "maxSteps": 40, "etaSeconds": 12.5, "lastStepTime": "2026-01-01T00:00:00Z",
            "metrics": [{"name": "rewards/accuracy", "value": 0.75}], "phaseSeconds": {"update": 0.5},
            "checkpoint": CHECKPOINT, "warnings": ["zwei Zeilen:\n\tÄnderung – 你好"],
        }
    )  # fmt: skip
    assert read_report(said.model_dump_json(by_alias=True).encode()) == said


def without(field: str) -> dict[str, Any]:
    return {**CHECKPOINT, field: ""}


@pytest.mark.parametrize(
    "fields",
    [
        {"checkpoint": without("uri")},  # no status with an empty one could be stored
        {"checkpoint": without("digest")},
        {"bestCheckpoint": {"step": 3, "uri": "", "metric": "loss", "value": 1.0}},
        {"output": {"uri": "pvc://o", "digest": ""}},
        {"step": 10**4000},
        {"step": LARGEST_WHOLE_NUMBER},
        {"maxSteps": 10**13},
        {"attempt": LARGEST_WHOLE_NUMBER + 1},
        {"step": -1},
        {"step": 1.5},
        {"etaSeconds": 1e300},
        {"etaSeconds": float("nan")},
        {"etaSeconds": float("inf")},
        {"metrics": [{"name": "loss", "value": float("nan")}]},
        {"metrics": [{"name": "loss", "value": 0.0}] * 65},
        {"metrics": [{"name": "n" * 129, "value": 0.0}]},
        {"warnings": ["w"] * 17},
        {"warnings": [["w"]]},
        {"checkpoint": {**CHECKPOINT, "time": "0001-01-01T00:00:00+14:00"}},
        {"checkpoint": {**CHECKPOINT, "time": "9999-12-31T23:59:59-14:00"}},
        {"checkpoint": {**CHECKPOINT, "uri": "u" * 4097}},
        {"lastStepTime": "2026-01-01T00:00:00"},
        {"unknown": 1},
        {"contractVersion": "v2"},
        {"phaseSeconds": {"a": {"b": {"c": {}}}}},
    ],
)
def test_what_is_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_report(report(**fields))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 10_000,
        b'{"state": "training", "warnings": ["\\ud800"]}',
        b'{"state": "training", "warnings": ["\xed\xa0\x80"]}',
        b'{"state": "training", "step": ' + b"9" * 5000 + b"}",
        b'{"state": "training", "tokensPerSecond": 1e999}',
        b'{"state": "training"}' + b" " * 70_000,
        b"\x00",
        b"",
    ],
    ids=range(9),
)
def test_no_document_makes_the_parser_fall(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_report(body)


def test_texts_cannot_steer_the_terminal_that_shows_them() -> None:
    text = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202egnp.exe\u2066 \r\x00 line\nnext\ttab"
    said = read_report(report(warnings=[text], metrics=[{"name": "a\x1b[0m", "value": 1.0}]))
    assert "line\nnext\ttab" in said.warnings[0]
    for shown in (said.warnings[0], said.metrics[0].name):
        assert all(part.isprintable() or part in "\n\t" for part in shown)


def test_last_words_have_the_same_bounds() -> None:
    words = {"reason": "DataError", "message": "row 7\x1b[2J"}
    assert read_last_words(json.dumps(words)).message == "row 7\ufffd[2J"
    for hostile in ({"step": 10**4000}, {"maxSteps": 10**13}, {"checkpoint": {**CHECKPOINT, "time": "2026-01-01T00"}}):
        with pytest.raises(ValueError, match=r"."):
            read_last_words(json.dumps({**words, **hostile}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["2026-01-01T00:00:00Z"]),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
    max_leaves=8,
)
FIELDS = sorted({field.alias or name for name, field in StatusReport.model_fields.items()})
NUMBERS = st.integers(0, 10**30) | st.floats(0)
PLAUSIBLE = st.fixed_dictionaries(
    {"state": st.sampled_from(["training", "starting", "done"])},
    optional={
        **dict.fromkeys([name for name in FIELDS if name != "state"], JSON),
        **dict.fromkeys(["step", "maxSteps", "fromStep", "etaSeconds", "tokensPerSecond", "stepSeconds"], NUMBERS),
        "warnings": st.lists(st.text(), max_size=20),
        "metrics": st.lists(
            st.fixed_dictionaries({"name": st.text(), "value": st.floats() | st.integers()}), max_size=4
        ),
    },
)


@settings(max_examples=300, deadline=None)
@given(PLAUSIBLE)
def test_whatever_passes_makes_a_status_that_can_be_stored(document: dict[str, Any]) -> None:
    try:
        said = read_report(json.dumps(document).encode())
    except ValueError:
        return
    status, attempt = JobStatus(), Attempt(number=1, start_time=datetime.now(UTC))
    merge_report(status, attempt, said)
    words = TerminationMessage(reason="Completed", step=said.step, max_steps=said.max_steps, metrics=said.metrics)
    merge_last_words(status, attempt, words)
    stored = JobStatus.model_validate(status.to_document()).to_document()
    # One trainer fills no more than a small part of what etcd takes of one object (1.5 MiB).
    assert len(json.dumps(stored)) < 128 * 1024
    assert all(abs(number) < 2**63 for number in _whole_numbers(stored))


def _whole_numbers(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in _whole_numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in _whole_numbers(part)]
    return [value] if isinstance(value, int) else []
