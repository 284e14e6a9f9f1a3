"""Stalls: what the deadline is, what counts as progress, and what a hanging process says in its last moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from plumbline_trainer.stalling import (
    LEAST_SECONDS,
    TICK_SECONDS,
    UNSTEADY_SECONDS,
    _Idle,
    progress_mark,
    stall_deadline,
)

DEADLINES = {
    "short steps": ("training", [1.0] * 5, None, LEAST_SECONDS),
    "long steps": ("training", [60.0] * 5, None, 600.0),
    "one step that was very long": ("training", [1.0] * 9 + [400.0], None, 1200.0),
    "the first step": ("training", [], None, UNSTEADY_SECONDS),
    "the first step, whatever is given": ("training", [], 20.0, UNSTEADY_SECONDS),
    "given": ("training", [60.0], 20.0, 20.0),
    "given, an evaluation": ("evaluating", [], 20.0, 20.0),
    "an evaluation": ("evaluating", [1.0], None, UNSTEADY_SECONDS),
    "an evaluation of a run with very long steps": ("evaluating", [600.0], None, 6000.0),
    "loading": ("starting", [], 20.0, UNSTEADY_SECONDS),
    "loading, and more is given": ("starting", [], 7200.0, 7200.0),
    "saving": ("checkpointing", [1.0], 20.0, UNSTEADY_SECONDS),
    "writing the model": ("exporting", [1.0], None, UNSTEADY_SECONDS),
    "stopping has the grace period": ("stopping", [1.0], 20.0, None),
    "done": ("done", [1.0], None, None),
    "switched off": ("training", [1.0], 0.0, None),
}


@pytest.mark.parametrize("name", DEADLINES)
def test_the_deadline_of_each_state(name: str) -> None:
    state, step_seconds, given, expected = DEADLINES[name]
    assert stall_deadline(state, step_seconds, given) == expected


@pytest.mark.parametrize(
    ("state", "steps", "expected"), [("training", [1.0], 10.0), ("training", [], 12.0), ("evaluating", [1.0], 12.0)]
)
def test_where_steps_are_due_only_a_step_is_progress(state: str, steps: list[float], expected: float) -> None:
    assert progress_mark(state, steps, progress_at=10.0, polled_at=12.0) == expected


def test_time_in_which_the_whole_process_was_frozen_does_not_count() -> None:
    idle = _Idle()
    assert idle.tick(5.0, now=6.0, gap=1.0) == 1.0
    assert idle.tick(5.0, now=7.0, gap=1.0) == 2.0
    assert idle.tick(5.0, now=3607.0, gap=3600.0) == 2.0 + 2 * TICK_SECONDS
    assert idle.tick(3608.0, now=3608.5, gap=1.0) == 0.5, "progress starts the clock anew"


HANGING = """
import ctypes, signal, sys, threading, time
from plumbline_trainer import stalling
from plumbline_trainer.reporting.console import JsonConsole
from plumbline_trainer.reporting.server import StatusServer
from plumbline_trainer.reporting.status import StatusBoard
from plumbline_trainer.stopping import StopRequest

stalling.TICK_SECONDS = 0.05

def abandon(text):
    print("ABANDONED " + text, flush=True)
    import os
    os._exit(86)

def waits_for_a_peer(lock):
    lock.acquire()

def never_lets_go():
    ctypes.PyDLL(None).sleep(60)

stop = StopRequest()
stop.listen()
board = StatusBoard("uid", 1)
server = StatusServer(board, 0, {})
watchdog = stalling.StallWatchdog(board, stop, JsonConsole(sys.stdout), 0.5, abandon)
watchdog.start()
board.begin(0, 100, "loss")
board.enter("training")
board.step_done(1, 0.01, 10, {}, {})
print(server.port, flush=True)
lock = threading.Lock()
lock.acquire()
if sys.argv[1] == "recovers":
    threading.Timer(1.5, lock.release).start()
if sys.argv[1] == "keeps the lock":
    while board.report().stall_deadline_seconds != 0.5:  # until the watchdog has looked
        time.sleep(0.01)
        board.step_done(2, 0.01, 10, {}, {})
    never_lets_go()
waits_for_a_peer(lock)
board.step_done(2, 0.01, 10, {}, {})
signal.pause()
"""


class Hanging:
    """A process whose main thread waits for a lock, with a watchdog whose deadline is half a second."""

    def __init__(self, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HANGING, mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def report(self) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/status", timeout=10) as answer:
            found: dict[str, object] = json.load(answer)
        return found

    def line(self, word: str) -> str:
        """The next line of the standard output that has the word; the process prints one or ends."""
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if word in line)


@pytest.fixture
def hanging() -> Iterator[Callable[[str], Hanging]]:
    started: list[Hanging] = []

    def start(mode: str) -> Hanging:
        started.append(Hanging(mode))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_a_stall_is_reported_with_the_place_and_the_stacks(hanging: Callable[[str], Hanging]) -> None:
    run = hanging("hangs")
    run.line('"stall"')
    stall = run.report()["stall"]
    assert isinstance(stall, dict)
    assert (stall["state"], stall["deadlineSeconds"]) == ("training", 0.5)
    assert stall["location"].startswith("waits_for_a_peer (<string>:")
    assert "thread MainThread:" in stall["stacks"] and "waits_for_a_peer" in stall["stacks"]
    assert "status-server" in stall["stacks"], "the stacks of all threads"
    run.process.send_signal(signal.SIGTERM)
    _, errors = run.process.communicate(timeout=20)
    assert "Stacks of all threads" in errors and "waits_for_a_peer" in errors
    assert run.process.returncode == 86, "a main thread that hangs hears no signal; the watchdog does"


def test_progress_after_all_takes_the_report_back(hanging: Callable[[str], Hanging]) -> None:
    run = hanging("recovers")
    run.line("no progress for 0.5 s")
    run.line("makes progress again")
    assert run.report()["step"] == 2


def test_a_thread_that_never_lets_go_of_the_interpreter_is_shown_all_the_same(
    hanging: Callable[[str], Hanging],
) -> None:
    run = hanging("keeps the lock")
    assert run.process.stderr is not None
    assert any("Timeout (0:00:0" in line for line in run.process.stderr)
    assert any("never_lets_go" in line for line in run.process.stderr)
