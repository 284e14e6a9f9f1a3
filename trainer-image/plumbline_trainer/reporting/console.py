"""What a person or a log collector sees: a progress bar on a terminal, else one JSON line per step and per event."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

SHOWN_METRICS = 4
"""Metrics beside the progress bar; the log lines have all."""


class Console(Protocol):
    """Where steps and events are shown."""

    def step(self, step: int, max_steps: int, metrics: Mapping[str, float]) -> None:
        """Optimizer step number `step` (from 1) is done."""

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Something else happened: `name` for programs, `text` for people, both with `fields`."""

    def close(self) -> None:
        """Nothing more will be shown."""


def open_console(stream: TextIO | None = None) -> Console:
    """A progress bar where `stream` (default: standard output) is a terminal, else JSON lines."""
    stream = stream or sys.stdout
    return ProgressConsole(stream) if stream.isatty() else JsonConsole(stream)


class JsonConsole:
    """One JSON object a line; values that are not finite become null, as JSON has no word for them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def step(self, step: int, max_steps: int, metrics: Mapping[str, float]) -> None:
        self._line("step", {"step": step, "maxSteps": max_steps, **metrics})

    def event(self, name: str, text: str, **fields: Any) -> None:
        self._line(name, {"message": text, **fields})

    def close(self) -> None:
        self._stream.flush()

    def _line(self, name: str, fields: Mapping[str, Any]) -> None:
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": name, **fields}
        self._stream.write(json.dumps({key: _plain(value) for key, value in record.items()}, default=str) + "\n")
        self._stream.flush()


class ProgressConsole:
    """A progress bar with the main metrics; events are lines above it."""

    def __init__(self, stream: TextIO) -> None:
        # only people at a terminal wait for this import
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=RichConsole(file=stream),
        )
        self._bar: Any = None

    def step(self, step: int, max_steps: int, metrics: Mapping[str, float]) -> None:
        if self._bar is None:
            self._bar = self._progress.add_task("steps", total=max_steps, completed=step - 1, metrics="")
            self._progress.start()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:SHOWN_METRICS])
        self._progress.update(self._bar, completed=step, metrics=shown)

    def event(self, name: str, text: str, **fields: Any) -> None:
        self._progress.console.print(f"{name}: {text}", markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


class SilentConsole:
    """Shows nothing: ranks other than 0."""

    def step(self, step: int, max_steps: int, metrics: Mapping[str, float]) -> None:
        return

    def event(self, name: str, text: str, **fields: Any) -> None:
        return

    def close(self) -> None:
        return


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
