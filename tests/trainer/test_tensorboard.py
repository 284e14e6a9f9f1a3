"""Event files: what TensorBoard finds in them, and that a run survives a volume that takes no more."""

from __future__ import annotations

import errno
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from plumbline_trainer.reporting.console import JsonConsole
from plumbline_trainer.reporting.tensorboard import FOLDER, MOST_POINTS, EventFiles


def events(output: Path) -> Iterator[Event]:
    """Reads TFRecord files: length, its checksum, the event, its checksum."""
    for path in sorted((output / FOLDER).iterdir()):
        stream = io.BytesIO(path.read_bytes())
        while header := stream.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            yield Event.FromString(stream.read(length))
            assert len(stream.read(4)) == 4


def scalars(output: Path) -> dict[tuple[int, str], float]:
    return {
        (event.step, value.tag): round(value.simple_value, 6)
        for event in events(output)
        for value in event.summary.value
    }


def test_steps_and_evaluations_are_written_and_still_shown(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = EventFiles(JsonConsole(stream), tmp_path)
    console.event("start", "a job", ranks=1)
    console.event("evaluation", "step 0: accuracy 0.25", step=0, seconds=1.0, **{"evaluation/accuracy": 0.25})
    console.step(1, 2, {"loss": 0.5, "kl": 0.125})
    console.step(2, 2, {"loss": 0.25, "kl": 0.25})
    console.close()
    assert scalars(tmp_path) == {
        (0, "evaluation/accuracy"): 0.25,
        (1, "loss"): 0.5,
        (1, "kl"): 0.125,
        (2, "loss"): 0.25,
        (2, "kl"): 0.25,
    }
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "start",
        "evaluation",
        "step",
        "step",
    ]


def test_a_later_attempt_takes_back_the_steps_that_it_does_again(tmp_path: Path) -> None:
    for steps in ((1, 2, 3), (3, 4)):
        console = EventFiles(JsonConsole(io.StringIO()), tmp_path / str(steps[0]))
        for step in steps:
            console.step(step, 4, {"loss": 1.0})
        console.close()
    starts = [
        [event.step for event in events(tmp_path / first) if event.session_log.status == SessionLog.START]
        for first in ("1", "3")
    ]
    assert starts == [[1], [3]]


def test_long_runs_are_thinned_out_but_keep_their_last_step(tmp_path: Path) -> None:
    console = EventFiles(JsonConsole(io.StringIO()), tmp_path)
    last = 3 * MOST_POINTS
    for step in (1, 2, 3, 4, last - 1, last):
        console.step(step, last, {"loss": 1.0})
    console.close()
    assert sorted(step for step, _ in scalars(tmp_path)) == [1, 4, last]


def test_a_volume_that_takes_no_more_ends_the_files_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    console = EventFiles(JsonConsole(stream), tmp_path)
    console.step(1, 3, {"loss": 0.5})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(console._writer, "write_event", full)
    console.step(2, 3, {"loss": 0.5})
    console.step(3, 3, {"loss": 0.5})
    console.close()
    shown = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in shown] == ["step", "step", "warning", "step"]
    assert "No space left on device" in shown[2]["message"]


def test_an_output_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file")
    stream = io.StringIO()
    console = EventFiles(JsonConsole(stream), tmp_path / "output")
    console.step(1, 2, {"loss": 0.5})
    console.step(2, 2, {"loss": 0.5})
    console.close()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["step", "warning", "step"]
