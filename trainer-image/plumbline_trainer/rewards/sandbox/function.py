"""The user's reward function, loaded once in the sandbox and called from outside."""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from plumbline_trainer.rewards.sandbox.confinement import Limits
from plumbline_trainer.rewards.sandbox.supervisor import Sandbox, sealed_file

LOG_BYTES = 65_536
"""What a call may print; the rest is dropped."""

ANSWER_BYTES = 2**20
_READ_BYTES = 65_536


class CodeFailed(Exception):
    """The user's code raised: its error in one line, and the end of its traceback."""

    def __init__(self, error: str, trace: str = "") -> None:
        super().__init__(error)
        self.error, self.traceback = error, trace


class FunctionEnded(CodeFailed):
    """The function's process is gone, and with it what the code had loaded."""


class OutOfTime(FunctionEnded):
    """A call took longer than it may; its process was ended."""


class SandboxedFunction:
    """`verify(prompt, completion, answer, row)` in a process of its own, for many calls."""

    def __init__(self, sandbox: Sandbox, code: Path, function: str, limits: Limits) -> None:
        """Loads the code. Raises `CodeFailed` with what it raised, and `OSError` where the file cannot be read."""
        self.seconds = float("inf")
        """Longest time of the next call."""

        loading = {"source": code.read_text(encoding="utf-8"), "path": str(code), "function": function}
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        source = sealed_file(json.dumps(loading).encode())
        calls_read, self._calls = os.pipe2(os.O_CLOEXEC)
        self._answers, answers_write = os.pipe2(os.O_CLOEXEC)
        self._log, log_write = os.pipe2(os.O_CLOEXEC)
        theirs = [null, log_write, log_write, source, calls_read, answers_write]
        search = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        try:
            readable = [code, code.resolve(), *search]
            self._process = sandbox.start("function", limits, theirs, readable=readable)
        finally:
            for descriptor in set(theirs):
                os.close(descriptor)
        for descriptor in (self._calls, self._answers, self._log):
            os.set_blocking(descriptor, False)
        message = self._exchange(b"")
        if "error" in message:
            self._process.end()
            raise CodeFailed(message["error"], message["traceback"])

    def __call__(self, prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        """What the function returned. Raises `CodeFailed`; after a `FunctionEnded` it cannot be called again."""
        call = {"prompt": prompt, "completion": completion, "answer": answer, "row": row}
        message = self._exchange(json.dumps(call, default=str).encode() + b"\n")
        if "error" in message:
            raise CodeFailed(str(message["error"]), str(message.get("traceback", "")))
        return float(message["value"])

    def _exchange(self, question: bytes) -> dict[str, Any]:
        """Sends a line and waits for one, while it passes on what the code prints."""
        deadline = time.monotonic() + self.seconds
        left, answer, printed = memoryview(question), bytearray(), 0
        with selectors.DefaultSelector() as selector:
            for file in (self._answers, self._log, self._process):
                selector.register(file, selectors.EVENT_READ)
            if left:
                selector.register(self._calls, selectors.EVENT_WRITE)
            while True:
                patience = min(self._process.patience, deadline - time.monotonic())
                ready = {key.fileobj for key, _ in selector.select(max(0.0, patience))}
                if self._calls in ready:
                    with suppress(BrokenPipeError):
                        left = left[os.write(self._calls, left) :]
                    if not left or self._process in ready:
                        selector.unregister(self._calls)
                if self._log in ready:
                    printed = self._pass_on(selector, printed)
                if self._answers in ready:
                    data = os.read(self._answers, _READ_BYTES)
                    answer += data
                    if answer.endswith(b"\n"):
                        return self._read(bytes(answer))
                    if not data:
                        selector.unregister(self._answers)
                    if len(answer) > ANSWER_BYTES:
                        raise self._ended(f"answered with more than {ANSWER_BYTES} bytes")
                elif self._process in ready:
                    raise self._ended("")
                if time.monotonic() >= deadline:
                    why = f"did not return within {self.seconds:g} s"
                    self._process.end(why)
                    raise OutOfTime(why)
                if why := self._process.breach():
                    raise self._ended(why)

    def _pass_on(self, selector: selectors.BaseSelector, printed: int) -> int:
        data = os.read(self._log, _READ_BYTES)
        if not data:
            selector.unregister(self._log)
        if printed < LOG_BYTES:
            sys.stderr.buffer.write(data[: LOG_BYTES - printed])
            sys.stderr.buffer.flush()
        return printed + len(data)

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict) or not message.keys() & {"loaded", "value", "error"}:
            raise self._ended("wrote something else than its answer to its answers")
        return message

    def _ended(self, why: str) -> FunctionEnded:
        ended = self._process.end(why)
        return FunctionEnded(f"the process {ended}")
