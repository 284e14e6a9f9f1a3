"""Verifiers that are programs of their own, such as proof checkers and compilers.

A program is the job's own, what it compiles or runs is a completion: so it is confined, see `confine_program`.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from plumbline_api.methods.verifiers.command import Command
from plumbline_trainer.rewards.sandbox import landlock
from plumbline_trainer.rewards.sandbox.confinement import confine_program
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify, shown

_READ_BYTES = 65_536


class CommandFailed(Exception):
    """The program could not judge: a status that says so, a signal, no number, or no program at all."""


@dataclass(frozen=True)
class Finished:
    """How a program ended."""

    status: int
    """Its exit status, or minus the number of the signal that ended it."""

    output: bytes
    """The end of what it printed on standard output."""

    errors: bytes
    """The end of what it printed on standard error."""


@VERIFIERS.implements(Command)
def command(parameters: Command, code: Path | None) -> Verify:
    """Runs the program for each completion, with a time limit and a bound on what is kept of its output."""

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        text = completion
        if parameters.input == "json":
            text = json.dumps({"prompt": prompt, "completion": completion, "answer": answer, "row": dict(row)})
        found = run(parameters.command, text.encode(), parameters.timeout_seconds, parameters.output_bytes)
        return _judged(parameters, found)

    return verify


def run(program: list[str], text: bytes, seconds: float, output_bytes: int) -> Finished:
    """Runs a program, confined, in a session and an empty directory of its own, with `text` as its standard input.

    Whatever it started is killed when it ends, when the time is over and when this process dies. Of either stream the
    last `output_bytes` are kept; what is before them is read and dropped, so that a program that prints without end
    ends by the time limit and not by a full pipe or memory. Raises `TimeoutError` after `seconds` and `CommandFailed`
    where the program cannot be started.
    """
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="command-") as directory, tempfile.TemporaryFile() as given:
        given.write(text)
        given.seek(0)
        before = partial(_before_the_program, Path(directory), [Path(word) for word in program if "/" in word])
        try:
            process = subprocess.Popen(
                program,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=directory,
                env=os.environ | {"HOME": directory, "TMPDIR": directory},
                start_new_session=True,
                preexec_fn=before,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise CommandFailed(f"{program[0]} cannot be started: {error}") from error
        try:
            output, errors = _read(process, deadline, output_bytes)
            status = process.wait(max(deadline - time.monotonic(), 0))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise TimeoutError(f"{program[0]} took longer than {seconds:g} s") from error
        finally:
            _end(process)
        return Finished(status, output, errors)


def _judged(parameters: Command, found: Finished) -> float:
    if parameters.result == "exitStatus":
        if found.status == 0 or found.status in parameters.reject_statuses:
            return float(found.status == 0)
        raise CommandFailed(_about(found))
    if found.status != 0:
        raise CommandFailed(_about(found))
    lines = found.output.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    try:
        return float(last)
    except ValueError as error:
        raise CommandFailed(f"the last line {shown(last)} is not a number") from error


def _about(found: Finished) -> str:
    how = f"signal {-found.status}" if found.status < 0 else f"status {found.status}"
    said = (found.errors or found.output).decode(errors="replace").strip().splitlines()
    return f"the program ended with {how}" + (f": {shown(said[-1])}" if said else "")


def _read(process: subprocess.Popen[bytes], deadline: float, most: int) -> tuple[bytes, bytes]:
    """The ends of both streams, read until the program closes them or ends. Raises `TimeoutError` at the deadline."""
    assert process.stdout is not None and process.stderr is not None
    tails = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as waiting:
        for stream in tails:
            os.set_blocking(stream, False)
            waiting.register(stream, selectors.EVENT_READ)
        child = os.pidfd_open(process.pid)
        try:
            waiting.register(child, selectors.EVENT_READ)
            running = True
            while running and len(waiting.get_map()) > 1:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                for key, _ in waiting.select(left):
                    if key.fd == child:
                        running = False  # something that it left behind may hold the pipes open for ever
                    elif not _take(key.fd, tails[key.fd], most):
                        waiting.unregister(key.fd)
            for stream, tail in tails.items():
                while time.monotonic() < deadline and _take(stream, tail, most):
                    pass
        finally:
            os.close(child)
    output, errors = tails.values()
    return bytes(output), bytes(errors)


def _take(stream: int, tail: bytearray, most: int) -> bool:
    """Reads what is there into `tail`, of which the last `most` bytes stay; false at the end or if nothing is there."""
    try:
        chunk = os.read(stream, _READ_BYTES)
    except BlockingIOError:
        return False
    tail += chunk
    del tail[:-most]
    return bool(chunk)


def _before_the_program(directory: Path, readable: list[Path]) -> None:
    """Confinement, and the memory that the pod has instead of the little that built-in verifiers get."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    confine_program(directory, readable, landlock.abi_version())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the program's process group and takes its status."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
