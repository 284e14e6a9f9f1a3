"""What passes between the processes of a benchmark, and the clocks of a side."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.measurement import (
    Assignment,
    ProfiledOperation,
    Recorder,
    Report,
    Seconds,
    Step,
    digest_tokens,
    memory_bytes,
)


def busy(seconds: float) -> None:
    end = Seconds.now().cpu + seconds
    while Seconds.now().cpu < end:
        pass


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report = Report(
        versions={"torch": "2"},
        base_bytes=1,
        peak_bytes=2,
        loading=Seconds(0.1, 0.2),
        before_steps=Seconds(0.3, 0.4),
        steps=[Step(Seconds(1.0, 2.0), 0.693, 100)],
        kernel_seconds=0.5,
        token_digest="abc",
        phases={"prepare": 0.5},
        profile=[ProfiledOperation("aten::mm", [[2, 3], [3, 4]], 5, 0.6)],
    )
    report.write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report


def test_an_assignment_survives_its_file(tmp_path: Path) -> None:
    assignment = Assignment("model", "rows", 8, 2, 1e-5, 0.1, 1.0, 0, "work", "report", profile_step=3)
    assignment.write(tmp_path / "assignment.json")
    assert Assignment.read(tmp_path / "assignment.json") == assignment


def test_every_second_belongs_to_exactly_one_part() -> None:
    began = Seconds.now()
    recorder = Recorder()
    with recorder.reading_weights():
        busy(0.02)
    busy(0.01)
    recorder.step_begins()
    busy(0.02)
    recorder.step_ended(0.7, 10)
    busy(0.01)  # logging, say: it belongs to the next step
    recorder.step_begins()
    busy(0.01)
    recorder.step_ended(0.6, 20)
    whole = Seconds.now() - began
    report = recorder.report({}, "digest")
    parts = sum((step.seconds for step in report.steps), report.loading + report.before_steps)
    assert parts.cpu == pytest.approx(whole.cpu, abs=5e-3)
    assert parts.cpu <= whole.cpu
    assert report.loading.cpu >= 0.02
    assert 0.01 <= report.before_steps.cpu < 0.02
    assert report.steps[1].seconds.cpu >= 0.02
    assert [(step.loss, step.tokens) for step in report.steps] == [(0.7, 10), (0.6, 20)]


def test_the_peak_counts_memory_that_was_given_back() -> None:
    recorder = Recorder()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    del block
    recorder.step_begins()
    recorder.step_ended(0.0, 1)
    assert recorder.peak_bytes - recorder.base_bytes >= 60 << 20


def test_memory_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ValueError, match="no VmNothing"):
        memory_bytes("VmNothing")


def test_the_digest_depends_on_where_a_prompt_ends() -> None:
    assert digest_tokens([([1], [2, 3], [4])]) != digest_tokens([([1, 2], [3], [4])])
    assert digest_tokens([([1], [2], [3])]) == digest_tokens([((1,), (2,), (3,))])
