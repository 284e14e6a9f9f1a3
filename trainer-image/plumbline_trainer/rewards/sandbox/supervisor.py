"""The unconfined side of the sandbox: starts processes in it, watches them, ends them and cleans up.

A `Sandbox` belongs to one thread of one process. The kernel limits a process by itself (see `confinement`); what it
cannot limit, the supervisor watches while it waits: wall-clock time, the amount of output, the size of the temporary
directory, and the number and memory of children.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import plumbline_trainer
from plumbline_trainer.rewards.sandbox import confinement, landlock, zygote
from plumbline_trainer.rewards.sandbox.confinement import Limits
from plumbline_trainer.rewards.sandbox.tasks import PASSED
from plumbline_trainer.rewards.sandbox.usage import directory_bytes, group_usage, remove_tree

WATCH_SECONDS = 0.05
"""Time between two looks at what the kernel does not limit."""

MAX_THREADS = 128
"""Threads of a process group. Programs for deep recursion start one with a large stack; none needs many."""

_READ_BYTES = 65_536
_START_SECONDS = 60.0
_KEPT_ENVIRONMENT = ("PATH", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE")


class SandboxError(Exception):
    """The sandbox itself does not work here; nothing was run."""


@dataclass(frozen=True)
class Ended:
    """How a sandboxed process ended."""

    status: int | None
    """Exit code, or minus the signal; None where it was not the process that ended first."""

    stopped_for: str = ""
    """Why the supervisor ended it; empty where it ended by itself."""

    @property
    def by_itself(self) -> bool:
        return not self.stopped_for

    def __str__(self) -> str:
        if self.stopped_for or self.status is None:
            return self.stopped_for
        if self.status < 0:
            return f"ended by signal {signal.Signals(-self.status).name}"
        return f"ended with exit code {self.status}"


class Sandbox:
    """Starts confined processes. Use it as a context manager, or call `close`."""

    def __init__(self, landlock_version: int | None = None) -> None:
        """`landlock_version` is what the kernel offers; a lower number does without what came later."""
        offered = landlock.abi_version()
        self.landlock_version = offered if landlock_version is None else min(landlock_version, offered)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_START_SECONDS)
        root = Path(plumbline_trainer.__file__ or "").parents[1]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        self._environment = {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | kept
        with theirs:
            self._zygote = subprocess.Popen(
                [sys.executable, "-P", "-s", "-c", _ZYGOTE.format(descriptor=theirs.fileno(), control=zygote.CONTROL)],
                env=self._environment | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process(self) -> int:
        """The id of the process that all others are forked from."""
        return self._zygote.pid

    def close(self) -> None:
        """Ends all processes. Calling it again does nothing."""
        self._control.close()
        self._zygote.wait()

    def start(
        self,
        task: str,
        limits: Limits,
        descriptors: Sequence[int],
        *,
        temporary: bool = True,
        readable: Sequence[Path] = (),
    ) -> Confined:
        """A new process with these descriptors as its 0, 1, 2, ...; they stay open here.

        It is confined already when this returns. Raises `SandboxError` where that is not possible.
        """
        directory = Path(tempfile.mkdtemp(prefix="sandbox-")) if temporary else None
        try:
            home = str(directory or "/")
            if directory is not None and os.geteuid() == 0:
                with suppress(PermissionError):
                    os.chown(directory, confinement.NOBODY, confinement.NOBODY)
            message = {
                "start": task,
                "limits": asdict(limits),
                "directory": directory and str(directory),
                "readable": [str(path) for path in readable],
                "landlock": self.landlock_version,
                "environment": self._environment | {"HOME": home, "TMPDIR": home},
            }
            answer = self._ask(message, descriptors)
            if "error" in answer:
                raise SandboxError(f"no sandbox on this machine: {answer['error']}")
            return Confined(self, int(str(answer["pid"])), limits, directory)
        except BaseException:
            if directory is not None:
                remove_tree(directory)
            raise

    def reap(self, pid: int) -> int | None:
        """Ends the process's whole group and waits until it is gone; the exit code of the process itself."""
        status = self._ask({"reap": pid}, ())["status"]
        return None if status is None else int(str(status))

    def _ask(self, message: Mapping[str, object], descriptors: Sequence[int]) -> dict[str, object]:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
            data = self._control.recv(zygote.MESSAGE_BYTES)
        except OSError as error:
            raise SandboxError(f"the sandbox's own process does not answer: {error}") from error
        if not data:
            raise SandboxError(f"the sandbox's own process ended {self._zygote.wait()}")
        answer: dict[str, object] = json.loads(data)
        return answer


class Confined:
    """One process in the sandbox, with the group of its children. `end` must be called."""

    def __init__(self, sandbox: Sandbox, pid: int, limits: Limits, directory: Path | None) -> None:
        self.pid, self.limits, self.directory = pid, limits, directory
        self._sandbox = sandbox
        self._next_look = time.monotonic() + WATCH_SECONDS
        self._descriptor = os.pidfd_open(pid)
        self._ended: Ended | None = None

    def fileno(self) -> int:
        """A descriptor that becomes readable when the process has ended."""
        return self._descriptor

    @property
    def patience(self) -> float:
        """Seconds until `breach` wants to be asked again."""
        return max(0.0, self._next_look - time.monotonic())

    def breach(self) -> str:
        """The limit that the process exceeds, or nothing. Looks only where it is time to."""
        if self.patience > 0:
            return ""
        self._next_look = time.monotonic() + WATCH_SECONDS
        if (
            self.directory is not None
            and directory_bytes(self.directory, self.limits.file_bytes) > self.limits.file_bytes
        ):
            return f"wrote more than {self.limits.file_bytes} bytes of files"
        usage = group_usage(self.pid, children=self.limits.processes > 1)
        if usage.processes > self.limits.processes:
            return f"had more than {self.limits.processes} processes"
        if usage.threads > MAX_THREADS:
            return f"had more than {MAX_THREADS} threads"
        if self.limits.processes > 1 and usage.memory_bytes > self.limits.memory_bytes:
            return f"used more than {self.limits.memory_bytes} bytes of memory"
        return ""

    def end(self, why: str = "") -> Ended:
        """Ends what still runs, removes the temporary directory, and tells how the process ended.

        `why` is the reason where the process is ended by it; one that has ended before has its own.
        """
        if self._ended is None:
            alive = not select.select([self._descriptor], [], [], 0)[0]
            os.close(self._descriptor)
            try:
                status = self._sandbox.reap(self.pid)
            finally:
                if self.directory is not None:
                    remove_tree(self.directory)
            self._ended = Ended(None, why or "ended by its parent") if alive else Ended(status, why)
        return self._ended


@dataclass(frozen=True)
class Output:
    """What came of a program."""

    ended: Ended
    written: bytes
    """Its output, cut at the limit."""

    @property
    def succeeded(self) -> bool:
        return self.ended.by_itself and self.ended.status == 0


def run_script(
    sandbox: Sandbox, source: str, given: bytes, limits: Limits, *, seconds: float, output_bytes: int
) -> Output:
    """Runs a Python program on an input. It has `seconds`, and may write `output_bytes`; more of either ends it."""
    with ExitStack() as open_files:
        null = _opened(open_files, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        source_file = _opened(open_files, sealed_file(source.encode(errors="surrogatepass")))
        input_file = _opened(open_files, sealed_file(given))
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _opened(open_files, reading)
        os.set_blocking(writing, True)
        try:
            confined = sandbox.start("script", limits, [input_file, writing, null, source_file])
        finally:
            os.close(writing)
        deadline = time.monotonic() + seconds
        written, why = bytearray(), ""
        try:
            why = _follow(confined, reading, written, deadline, seconds, output_bytes)
        finally:
            ended = confined.end(why)
        return Output(ended, bytes(written[:output_bytes]))


def run_test(
    sandbox: Sandbox, program: str, test: Mapping[str, object], limits: Limits, *, seconds: float
) -> tuple[bool, Ended]:
    """Whether a test passes on a program, each in a process of its own; and how the test's process ended.

    `test` is what `tasks.checker` reads. Only the test's process has the descriptor that takes the verdict.
    """
    with ExitStack() as open_files:
        null = _opened(open_files, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        source_file = _opened(open_files, sealed_file(program.encode(errors="surrogatepass")))
        test_file = _opened(open_files, sealed_file(json.dumps(test).encode()))
        reading, verdict = os.pipe2(os.O_CLOEXEC)
        _opened(open_files, reading)
        theirs = ExitStack()
        with theirs:
            _opened(theirs, verdict)
            questions_read, questions_write = (_opened(theirs, end) for end in os.pipe2(os.O_CLOEXEC))
            answers_read, answers_write = (_opened(theirs, end) for end in os.pipe2(os.O_CLOEXEC))
            deadline = time.monotonic() + seconds
            subject = sandbox.start("program", limits, [null, null, null, source_file, questions_read, answers_write])
            try:
                checker = sandbox.start(
                    "checker",
                    limits,
                    [null, null, null, test_file, answers_read, questions_write, verdict],
                    temporary=False,
                )
            except BaseException:
                subject.end()
                raise
        why = ""
        try:
            while not select.select([checker], [], [], min(checker.patience, subject.patience))[0]:
                late = f"did not end within {seconds:g} s" if time.monotonic() >= deadline else ""
                if why := late or checker.breach() or subject.breach():
                    break
        finally:
            ended = checker.end(why)
            subject.end()
        return ended.by_itself and os.read(reading, len(PASSED)) == PASSED, ended


def sealed_file(content: bytes) -> int:
    """A descriptor of a file in memory that nobody can change any more, at its beginning."""
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(
        descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    )
    return descriptor


def _follow(
    confined: Confined, reading: int, written: bytearray, deadline: float, seconds: float, output_bytes: int
) -> str:
    """Reads a program's output until it has ended; returns why it has to be ended before that."""
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        selector.register(confined, selectors.EVENT_READ)
        while True:
            events = selector.select(max(0.0, min(confined.patience, deadline - time.monotonic())))
            ready = {key.fileobj for key, _ in events}
            if reading in ready and not _drain(reading, written, output_bytes):
                selector.unregister(reading)
            if len(written) > output_bytes:
                return f"wrote more than {output_bytes} bytes"
            if confined in ready:
                _drain(reading, written, output_bytes)
                return f"wrote more than {output_bytes} bytes" if len(written) > output_bytes else ""
            if time.monotonic() >= deadline:
                return f"did not end within {seconds:g} s"
            if why := confined.breach():
                return why


def _drain(reading: int, written: bytearray, enough: int) -> bool:
    """Reads what is there, and not much more than enough; false at the end of the stream."""
    while len(written) <= enough:
        try:
            data = os.read(reading, _READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        written += data
    return True


def _opened(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


_ZYGOTE = (
    "import os; os.dup2({descriptor}, {control}, inheritable=False)\n"
    "from plumbline_trainer.rewards.sandbox.zygote import main; main()"
)
