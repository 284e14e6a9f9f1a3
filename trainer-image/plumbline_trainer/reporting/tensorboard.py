"""TensorBoard event files beside the model: the console's steps and evaluations, written once more.

They are for people who compare runs after the pods are gone. A run never fails for them: what goes wrong while they are
written is said once, and the run goes on without.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline_trainer.reporting.console import Console
from plumbline_trainer.reporting.status import EVALUATION_PREFIX

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

FOLDER = "tensorboard"
"""Folder of the event files in the output directory; each attempt writes a file of its own."""

MOST_POINTS = 10_000
"""Points of one curve, more than a screen shows: longer runs write every so many steps."""

FLUSH_SECONDS = 30.0


class EventFiles(Console):
    """Writes what another console shows into event files as well. One per run: that of rank 0."""

    def __init__(self, shown: Console, output: Path) -> None:
        self._shown = shown
        self._folder = output / FOLDER
        self._writer: EventsWriter | None = None
        self._broken = False
        self._flushed_at = time.monotonic()

    def step(self, step: int, max_steps: int, metrics: Mapping[str, float]) -> None:
        self._shown.step(step, max_steps, metrics)
        if (step - 1) % max(1, max_steps // MOST_POINTS) == 0 or step == max_steps:
            self._write(step, metrics)

    def event(self, name: str, text: str, **fields: Any) -> None:
        self._shown.event(name, text, **fields)
        held_out = {key: value for key, value in fields.items() if key.startswith(EVALUATION_PREFIX)}
        if held_out:
            self._write(int(fields["step"]), held_out)

    def close(self) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)
            self._writer = None
        self._shown.close()

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._broken or not metrics:
            return
        # pre-flight and jobs that fail at once do not wait for this import
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        try:
            if self._writer is None:
                self._writer = self._open(step)
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                self._writer.flush()
                self._flushed_at = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def _open(self, step: int) -> EventsWriter:
        """A new file that takes back what an earlier attempt wrote from `step` on."""
        # The library's threaded writer would lose an error of the volume, and then block the run at a full queue.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        writer = EventsWriter(str(self._folder / "events"))
        writer.write_event(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))
        return writer

    def _give_up(self, error: OSError) -> None:
        self._broken, self._writer = True, None
        self._shown.event("warning", f"no more TensorBoard event files in {self._folder}: {error}")
