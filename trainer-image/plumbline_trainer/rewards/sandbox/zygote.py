"""The process that sandboxed ones are forked from: warm, small, and ignorant of everything that programs must not know.

Started by `supervisor` with one end of a socket as file descriptor 3. A message is one JSON object:

    {"start": task, "limits": {...}, "directory": path or null, "readable": [path, ...], "landlock": version}
        comes with the descriptors that the new process gets as 0, 1, 2, ...; answered with {"pid": ...} once the
        process has confined itself, or with {"error": ...}
    {"reap": pid}
        kills what is left of the process's group, waits until all of it is gone, and answers {"status": ...}

When the socket closes, because its other end has died, all processes are killed and their directories removed.
"""

from __future__ import annotations

import array  # noqa: F401  (these are loaded here once, and not by every program that needs them)
import bisect  # noqa: F401
import collections  # noqa: F401
import copy  # noqa: F401
import ctypes
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import decimal  # noqa: F401
import fractions  # noqa: F401
import functools  # noqa: F401
import gc
import hashlib  # noqa: F401
import heapq  # noqa: F401
import itertools  # noqa: F401
import json
import math  # noqa: F401
import operator  # noqa: F401
import os
import queue  # noqa: F401
import random  # noqa: F401
import re  # noqa: F401
import signal
import socket
import statistics  # noqa: F401
import string  # noqa: F401
import typing  # noqa: F401
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from plumbline_trainer.rewards.sandbox import tasks
from plumbline_trainer.rewards.sandbox.confinement import Limits, confine
from plumbline_trainer.rewards.sandbox.usage import remove_tree

CONTROL = 3
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
MESSAGE_BYTES = 65_536
MAX_DESCRIPTORS = 8


class Zygote:
    """Serves one supervisor."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._directories: dict[int, str | None] = {}

    def serve(self) -> None:
        """Until the supervisor is gone."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, MAX_DESCRIPTORS)
            except ConnectionResetError:
                data = b""
            if not data:
                break
            message = json.loads(data)
            answer = self._start(message, descriptors) if "start" in message else self._reap(message["reap"])
            with suppress(BrokenPipeError):
                self._control.send(json.dumps(answer).encode())
        for pid, directory in list(self._directories.items()):
            self._reap(pid)
            if directory is not None:
                with suppress(OSError):
                    remove_tree(Path(directory))

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(message, descriptors, tell)
        with suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # whoever of both comes first
        for descriptor in (tell, *descriptors):
            os.close(descriptor)
        with os.fdopen(ready, "rb") as pipe:
            said = pipe.read()
        self._directories[pid] = message["directory"]
        if said == b"confined":
            return {"pid": pid}
        self._reap(pid)
        return {"error": said.decode(errors="replace") or "the process died while it was confined"}

    def _reap(self, pid: int) -> dict[str, Any]:
        """Children whose parents have died are ours: this process is their subreaper, and groups cannot be left."""
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        status = None
        with suppress(ChildProcessError):
            while True:
                found, result = os.waitpid(-pid, 0)
                status = result if found == pid else status
        self._directories.pop(pid, None)
        return {"status": None if status is None else os.waitstatus_to_exitcode(status)}


def _become(message: dict[str, Any], descriptors: list[int], tell: int) -> NoReturn:
    """The new process's side of the fork; never returns."""
    code = 1
    try:
        with suppress(PermissionError):
            os.setpgid(0, 0)
        tell = _arrange(descriptors, tell)
        run = tasks.TASKS[message["start"]]
        environment = message["environment"]
        os.environ.clear()
        os.environ.update(environment)
        try:
            directory = message["directory"]
            readable = [Path(path) for path in message["readable"]]
            confine(Limits(**message["limits"]), directory and Path(directory), readable, message["landlock"])
        except BaseException as error:
            os.write(tell, f"{type(error).__name__}: {error}".encode()[:4096])
            os._exit(1)
        os.write(tell, b"confined")
        os.close(tell)
        code = run()
    finally:
        os._exit(code)


def _arrange(descriptors: list[int], tell: int) -> int:
    """Puts the descriptors at 0, 1, 2, ..., closes all others, and returns where `tell` is now."""
    safe = [os.dup2(descriptor, 100 + index) for index, descriptor in enumerate([*descriptors, tell])]
    for index, descriptor in enumerate(safe):
        os.dup2(descriptor, index, inheritable=True)
    os.closerange(len(safe), 1024)
    return len(safe) - 1


def main() -> None:
    """Serves the socket at descriptor 3."""
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no process of the same user looks into this one
    gc.freeze()
    Zygote(socket.socket(fileno=CONTROL)).serve()


if __name__ == "__main__":
    main()
