"""Stalls: a run that does no step for its deadline says so and shows where it hangs.

A thread of its own compares the time without progress with a deadline. When that has passed, the stacks of all threads
go to the standard error and, shortened, into the status report; whoever runs the job decides what follows. Progress
after all takes the report back.

Two things keep this thread from running. A process that is frozen as a whole does no step either, and that is not its
own doing: time in which this thread did not get to run does not count. A thread that hangs without ever releasing the
interpreter's lock holds up this one as well: for that case a timer of `faulthandler`, which needs no lock, is set ahead
again and again, and prints the stacks when nobody does so any more.
"""

from __future__ import annotations

import faulthandler
import select
import signal
import socket
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TextIO

from plumbline_api.contract import StallReport
from plumbline_trainer.reporting.console import Console
from plumbline_trainer.reporting.status import State, StatusBoard
from plumbline_trainer.reporting.termination import shorten
from plumbline_trainer.stopping import StopRequest

LEAST_SECONDS = 300.0
TIMES_MEDIAN = 10.0
TIMES_LONGEST = 3.0
UNSTEADY_SECONDS = 1800.0
"""Loading, compiling, the first step, saving and exporting: what has no usual duration yet, or depends on a disk."""
TICK_SECONDS = 1.0
MOST_STACKS = 8192
MOST_LOCATION = 1024
FRAMES_IN_LOCATION = 6


def stall_deadline(state: State, step_seconds: Sequence[float], given: float | None) -> float | None:
    """Seconds without progress after which a run in `state` is stalled; None for never.

    `step_seconds` are the durations of the last steps of this attempt, empty before its first one; `given` is
    runPolicy.progressDeadlineSeconds, where 0 switches stalls off. Without it: ten times the median step and three
    times the longest, at least five minutes. What has no usual duration gets at least half an hour, whatever is given.
    """
    if given == 0 or state in ("stopping", "done"):
        return None
    if state not in ("training", "evaluating") or (state == "training" and not step_seconds):
        return max(given or 0.0, UNSTEADY_SECONDS)
    if given is not None:
        return given
    if not step_seconds:
        return UNSTEADY_SECONDS
    usual = max(TIMES_MEDIAN * statistics.median(step_seconds), TIMES_LONGEST * max(step_seconds))
    return max(LEAST_SECONDS if state == "training" else UNSTEADY_SECONDS, usual)


def progress_mark(state: State, step_seconds: Sequence[float], progress_at: float, polled_at: float) -> float:
    """When the clock of the deadline started anew: with the last step, where steps are due; else with the last sign of
    life, such as a batch of the evaluation. All times in seconds of one clock."""
    return progress_at if state == "training" and step_seconds else max(progress_at, polled_at)


@dataclass
class _Idle:
    """Time without progress, as this thread could see it."""

    mark: float = float("-inf")
    seconds: float = 0.0

    def tick(self, mark: float, now: float, gap: float) -> float:
        """The time without progress after `gap` seconds more, of which a frozen process saw at most two ticks."""
        if mark != self.mark:
            self.mark, self.seconds = mark, min(max(0.0, now - mark), 2 * TICK_SECONDS)
        else:
            self.seconds += min(gap, 2 * TICK_SECONDS)
        return self.seconds


class StallWatchdog:
    """Watches one run from `start` to `close`.

    `given` is runPolicy.progressDeadlineSeconds. `abandon` is called in the watchdog's thread when the process is asked
    to stop while it is stalled: nobody else would hear it before the grace period is over.
    """

    def __init__(
        self,
        board: StatusBoard,
        stop: StopRequest,
        console: Console,
        given: float | None,
        abandon: Callable[[str], None],
        log: TextIO | None = None,
    ) -> None:
        self._board = board
        self._stop = stop
        self._console = console
        self._given = given
        self._abandon = abandon
        self._log = log or sys.stderr
        self._closing = False
        self._idle = _Idle()
        self._since = datetime.now(UTC)
        self._stall: StallReport | None = None
        self._asked_to_stop = False
        self._hears_signals = False
        self._timer_works = _has_descriptor(self._log)
        self._signals, self._woken_by = socket.socketpair()
        self._woken_by.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="stall-watchdog", daemon=True)

    def start(self) -> None:
        """Starts watching. From the main thread, requests to stop are heard as well: a handler runs in that thread,
        which may hang; the number of a signal that has a handler is written to a socket in any case."""
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._woken_by.fileno(), warn_on_full_buffer=False)
            self._hears_signals = True
        self._thread.start()

    def close(self) -> None:
        """Stops watching. To be called by the thread that called `start`."""
        self._closing = True
        if self._hears_signals:
            signal.set_wakeup_fd(-1)
        self._woken_by.close()
        if self._thread.is_alive():
            self._thread.join()
        self._signals.close()
        if self._timer_works:
            faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._closing:
            self._wait()
            now = time.monotonic()
            self._judge(now, now - last)
            last = now
            if self._asked_to_stop and self._stall is not None:
                self._abandon(stall_text(self._stall))

    def _wait(self) -> None:
        """Until the next tick, or until a signal or `close` comes."""
        if select.select([self._signals], [], [], TICK_SECONDS)[0]:
            numbers = set(self._signals.recv(64))
            self._asked_to_stop = self._asked_to_stop or bool(numbers & {signal.SIGTERM, signal.SIGINT})

    def _judge(self, now: float, gap: float) -> None:
        activity = self._board.activity()
        deadline = stall_deadline(activity.state, activity.step_seconds, self._given)
        mark = progress_mark(activity.state, activity.step_seconds, activity.progress_at, self._stop.polled_at)
        if mark != self._idle.mark:
            self._since = datetime.now(UTC) - timedelta(seconds=max(0.0, now - mark))
        idle = self._idle.tick(mark, now, gap)
        if deadline is None or idle < deadline:
            if self._stall is not None:
                self._console.event("stall", "the run makes progress again")
            self._stall = None
        elif self._stall is None:
            self._report(activity.state, self._since, deadline)
        self._board.watched(self._since, deadline, self._stall)
        self._set_timer_ahead(deadline, idle)

    def _report(self, state: State, since: datetime, deadline: float) -> None:
        threads = thread_stacks()
        stacks = "".join(threads)
        main = sys._current_frames().get(threading.main_thread().ident or 0)
        self._stall = StallReport(
            since=since,
            deadline_seconds=deadline,
            state=state,
            location=location_of(main)[:MOST_LOCATION],
            stacks=shorten(stacks, MOST_STACKS),
        )
        # in the status before in the log: who has read the line finds the report
        self._board.watched(since, deadline, self._stall)
        # the main thread at the end: of a log the last lines are kept
        shown = "".join(reversed(threads))
        text = stall_text(self._stall)
        print(f"{shown}{text}. Stacks of all threads: see above", file=self._log, flush=True)
        self._console.event("stall", text, seconds=round(deadline, 3))

    def _set_timer_ahead(self, deadline: float | None, idle: float) -> None:
        if not self._timer_works:
            return
        if deadline is None or self._stall is not None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(deadline - idle + 5 * TICK_SECONDS, file=self._log)


def _has_descriptor(stream: TextIO) -> bool:
    """Whether the stream is a file of the system, as `faulthandler` needs it."""
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):
        return False


def stall_text(stall: StallReport) -> str:
    """What happened, for people."""
    where = f"; the main thread is in {stall.location}" if stall.location else ""
    return f"no progress for {stall.deadline_seconds:g} s while {stall.state}{where}"


def thread_stacks() -> list[str]:
    """The Python stack of each thread, the main one first, innermost call last."""
    frames = sys._current_frames()
    main = threading.main_thread()
    threads = sorted(threading.enumerate(), key=lambda thread: (thread is not main, thread.name))
    known = {thread.ident: thread.name for thread in threads}
    texts = []
    for ident in [*known, *(ident for ident in frames if ident not in known)]:
        frame = frames.get(ident) if ident is not None else None
        if frame is not None and ident != threading.get_ident():
            lines = "".join(traceback.format_stack(frame))
            texts.append(f"thread {known.get(ident, ident)}:\n{lines}")
    return texts


def location_of(frame: FrameType | None) -> str:
    """The innermost calls as `function (file:line)`, innermost first, file names without their folders."""
    calls: list[str] = []
    while frame is not None and len(calls) < FRAMES_IN_LOCATION:
        calls.append(f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(calls)
