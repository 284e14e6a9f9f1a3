"""Runs verifiers in processes of their own, with a hard time limit for every call.

A call that runs out of time, or whose process dies, costs that process: it is killed with all its children and a new
one takes its place. A process that a signal ended, such as the kernel's when memory is short, has not judged: its call
is made once more. Nothing that a verifier does can hold up or end the trainer. Results come in the order of calls.

Workers see neither the trainer's environment, where credentials and the addresses of its peers may be, nor its files
and pipes, and their memory is limited (see `worker`). They run the project's own code; completions that are programs
and the user's functions run in sandboxes below them (see `sandbox`), which keep malice in as well.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import plumbline_api
import plumbline_trainer
from plumbline_api.methods.verifiers.code import Code
from plumbline_api.methods.verifiers.command import Command
from plumbline_api.methods.verifiers.python import PythonFunction
from plumbline_api.sources import Reward
from plumbline_trainer.failures import RewardFunctionError

LOAD_SECONDS = 60.0
"""Longest time for one component's code to load, libraries included."""

ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
"""What workers keep of the trainer's environment."""

SANDBOXED = (Code, PythonFunction)
"""Verifiers that run code which is not the project's."""

GRACE_SECONDS = 2.0
"""What a worker gets beyond the limit of a call to end its sandbox's processes by itself, and again to leave."""

MAX_WORKERS = 8

MAX_KILLED_WHILE_LOADING = 3
"""Workers in a row that a signal may end before they have loaded their code."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Call:
    """One completion to be scored by one component."""

    component: str
    prompt: Any
    completion: str
    answer: str | None
    row: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of a call: a value, or an error in one line with the end of its traceback."""

    value: float | None
    error: str = ""
    traceback: str = ""
    timed_out: bool = False
    seconds: float = 0.0
    """Wall-clock time from handing the call to a worker to its answer, or to its end."""

    comparisons: int = 0
    """With others of its group, for a component that compares them."""

    failed_comparisons: int = 0
    """Of these; a value is the mean over the others."""

    @property
    def failed(self) -> bool:
        return self.value is None


class VerifierPool:
    """Worker processes that all know the same components. Use it as a context manager, from one thread."""

    def __init__(self, rewards: Sequence[Reward], code: dict[str, Path], workers: int | None = None) -> None:
        """`code` is the file with the code of a component, by name. Workers start at once and load meanwhile."""
        self._timeouts = {reward.name: _longest_call(reward) for reward in rewards}
        self._sandboxed = any(isinstance(reward.verifier.value, SANDBOXED) for reward in rewards)
        self._greeting = [
            {
                "name": reward.name,
                "verifier": reward.verifier.to_document(),
                "code": str(code[reward.name]) if reward.name in code else None,
            }
            for reward in rewards
        ]
        self._size = workers or min(MAX_WORKERS, len(os.sched_getaffinity(0)))
        self._selector = selectors.DefaultSelector()
        self._workers = [_Worker(self._greeting, self._selector, self._sandboxed) for _ in range(self._size)]
        self._killed_while_loading = 0

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers. Calling it again does nothing."""
        for worker in self._workers:
            worker.end()
        self._workers = []
        self._selector.close()

    def run(
        self,
        calls: Sequence[Call],
        poll: Callable[[], None] = lambda: None,
        on_outcome: Callable[[Call, Outcome], None] = lambda call, outcome: None,
        longest: float = float("inf"),
    ) -> list[Outcome]:
        """The outcome of every call, in order; a call takes at most its component's limit and `longest` seconds.

        `poll` is called several times a second and `on_outcome` after each call; either ends the run by raising.
        Raises `RewardFunctionError` where a component's code does not load.
        """
        outcomes: list[Outcome | None] = [None] * len(calls)
        waiting = deque(range(len(calls)))
        repeated: set[int] = set()
        missing = len(calls)

        def settle(worker: _Worker, outcome: Outcome) -> None:
            nonlocal missing
            assert worker.call is not None
            index, worker.call = worker.call, None
            outcome = replace(outcome, seconds=time.monotonic() - worker.sent)
            outcomes[index] = outcome
            missing -= 1
            on_outcome(calls[index], outcome)

        try:
            while missing:
                poll()
                self._replace_ended()
                for worker in self._workers:
                    if waiting and worker.idle:
                        index = waiting.popleft()
                        limit = min(self._timeouts[calls[index].component], longest)
                        self._killed_while_loading = 0
                        worker.send(index, calls[index], limit)
                for key, _ in self._selector.select(self._patience()):
                    worker = key.data
                    for message in worker.receive():
                        if (outcome := worker.answered(message)) is not None:
                            settle(worker, outcome)
                    if worker.last_answer:
                        worker.end()
                    elif worker.closed:
                        outcome = worker.died()
                        if worker.loading:
                            self._not_loaded(worker, outcome)
                        elif worker.call is None:
                            pass  # it ended idle; another one takes its place
                        elif worker.killed and worker.call not in repeated:
                            repeated.add(worker.call)
                            waiting.appendleft(worker.call)
                            worker.call = None
                        else:
                            settle(worker, outcome)
                now = time.monotonic()
                for worker in self._workers:
                    if not worker.ended and worker.deadline <= now:
                        outcome = worker.expire()
                        settle(worker, outcome)
        finally:
            for worker in self._workers:
                if worker.call is not None:
                    worker.end()
        return [outcome for outcome in outcomes if outcome is not None]

    def _not_loaded(self, worker: _Worker, outcome: Outcome) -> None:
        """A worker ended while it loaded: raises unless signals did it and it may load another time."""
        self._killed_while_loading += 1
        if not worker.killed or self._killed_while_loading >= MAX_KILLED_WHILE_LOADING:
            raise RewardFunctionError(f"reward {worker.loading}: {outcome.error} while loading the code")

    def _replace_ended(self) -> None:
        for index, worker in enumerate(self._workers):
            if worker.ended:
                self._workers[index] = _Worker(self._greeting, self._selector, self._sandboxed)

    def _patience(self) -> float:
        nearest = min(worker.deadline for worker in self._workers) - time.monotonic()
        return max(0.0, min(_POLL_SECONDS, nearest))


class _Worker:
    """One worker process: loading, then idle or busy with one call, at last ended."""

    def __init__(self, greeting: list[dict[str, Any]], selector: selectors.BaseSelector, sandboxed: bool) -> None:
        """`sandboxed` workers have processes and files below them, and get the time to end those at their end."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "plumbline_trainer.rewards.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=_environment(),
            start_new_session=True,
        )
        self._sandboxed = sandboxed
        self._selector = selector
        selector.register(self._output, selectors.EVENT_READ, self)
        self._buffer = b""
        self._timeout = 0.0
        self.call: int | None = None
        self.sent = 0.0
        self.closed = False
        self.last_answer = False
        self.killed = False
        """Whether a signal ended the process."""
        self.ended = False
        self._to_load = [component["name"] for component in greeting]
        self.deadline = time.monotonic() + LOAD_SECONDS
        self._write(greeting)

    @property
    def _output(self) -> Any:
        return self._process.stdout

    @property
    def loading(self) -> str:
        """The component whose code is being loaded; empty once all are."""
        return self._to_load[0] if self._to_load else ""

    @property
    def idle(self) -> bool:
        return not self.ended and not self._to_load and self.call is None

    def send(self, index: int, call: Call, timeout: float) -> None:
        self.call = index
        self._timeout = timeout
        self.sent = time.monotonic()
        # the worker itself ends what runs in its sandbox, and is ended only if it does not
        self.deadline = self.sent + timeout + (GRACE_SECONDS if self._sandboxed else 0.0)
        self._write(vars(call) | {"limit": timeout})

    def receive(self) -> list[dict[str, Any]]:
        """Complete messages that have arrived; sets `closed` at the end of the stream."""
        data = os.read(self._output.fileno(), 65_536)
        self.closed = not data
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def answered(self, message: dict[str, Any]) -> Outcome | None:
        """The outcome that a message carries; None for one about loading."""
        if "failed" in message:
            raise RewardFunctionError(
                f"reward {message['failed']}: its code could not be loaded: {message['error']}\n{message['traceback']}"
            )
        if "loaded" in message:
            self._to_load.remove(message["loaded"])
            self.deadline = time.monotonic() + LOAD_SECONDS if self._to_load else float("inf")
            return None
        self.deadline = float("inf")
        if "error" in message:
            self.last_answer = message["ends"]
            return Outcome(None, message["error"], message["traceback"], message["timed_out"])
        return Outcome(float(message["value"]))

    def died(self) -> Outcome:
        """After the stream has ended: the process is gone, and so is its call."""
        try:
            code = self._process.wait(timeout=1)
            self.killed = code < 0
            how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "its answers by closing their pipe"
        self.end()
        return Outcome(None, f"the process ended {how}")

    def expire(self) -> Outcome:
        """Past the deadline: kills the process."""
        self.end()
        if self._to_load:
            raise RewardFunctionError(f"reward {self._to_load[0]}: its code did not load within {LOAD_SECONDS:g} s")
        return Outcome(None, f"did not return within {self._timeout:g} s", timed_out=True)

    def end(self) -> None:
        """Ends the process and all below it, and waits for it."""
        if self.ended:
            return
        self.ended = True
        self._selector.unregister(self._output)
        if self._sandboxed:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._output.close()

    def _write(self, message: Any) -> None:
        assert self._process.stdin is not None
        data = memoryview(json.dumps(message, default=str).encode() + b"\n")
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except BrokenPipeError:
            return  # the process has died; reading finds the end of its stream and says how


def _longest_call(reward: Reward) -> float:
    """A component's limit. Tests of programs and commands have one of their own, which must come first."""
    verifier = reward.verifier.value
    if isinstance(verifier, Code | Command):
        return max(reward.timeout_seconds, verifier.timeout_seconds + GRACE_SECONDS)
    return reward.timeout_seconds


def _environment() -> dict[str, str]:
    """Little of the trainer's own, one thread a worker, and the packages where this process found them."""
    roots = [str(Path(package.__file__ or "").parents[1]) for package in (plumbline_trainer, plumbline_api)]
    path = [*dict.fromkeys(roots), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
