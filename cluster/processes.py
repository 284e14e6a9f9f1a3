"""Start, recognise and stop the processes of one cluster directory.

A process is ours only if three things agree: its recorded pid, its recorded
start time (with the boot it belongs to), and a marker in its environment that
names our directory. Children inherit the marker, so it also finds a containerd
shim, or a process whose starter was killed before it could write the record.
Nothing is ever stopped by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

MARKER = "PLUMBLINE_CLUSTER_OWNER"

# The kernel ties a parent-death signal to the *thread* that forked. Forking from
# one thread that lives as long as the interpreter makes that the process again.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cluster-fork")


def boot_id() -> str:
    """Return an identifier of this boot; pids and start times mean nothing across boots."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Return a live process's start time in clock ticks, None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold spaces and brackets; the fields follow the last ')'.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def carries_marker(pid: int, directory: Path) -> bool:
    """Whether a process has our directory in its environment marker."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (OSError, ProcessLookupError):
        return False
    return f"{MARKER}={directory}".encode() in environment.split(b"\0")


def marked_processes(directory: Path) -> list[int]:
    """Return the pids of all live processes that carry our marker, except this one."""
    return [
        pid
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        if pid != os.getpid() and carries_marker(pid, directory) and start_time(pid) is not None
    ]


@dataclass(frozen=True)
class Record:
    """What is remembered about a started process."""

    name: str
    pid: int
    started: int
    boot: str
    command: list[str]

    def alive(self, directory: Path) -> bool:
        """Whether exactly this process still runs."""
        # While a process replaces itself by another program, its environment is empty
        # for a moment; hence more than one look.
        for _ in range(20):
            if self.boot != boot_id() or start_time(self.pid) != self.started:
                return False
            if carries_marker(self.pid, directory):
                return True
            time.sleep(0.01)
        return False


class Processes:
    """The processes of one directory: records in `run/`, output in `log/`.

    With `detached` they outlive the starter; otherwise the kernel kills them when
    it dies, however it dies.
    """

    def __init__(self, directory: Path, *, detached: bool) -> None:
        self.directory = directory
        self.detached = detached
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], *, umask: int = 0o022) -> Record:
        """Start one process and remember it."""
        for folder in ("run", "log"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        if not self.detached:
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        environment = {**os.environ, MARKER: str(self.directory)}
        with self.log(name).open("ab") as log:
            child = _forker.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                umask=umask,
                start_new_session=True,
            ).result()
        record = Record(name, child.pid, start_time(child.pid) or 0, boot_id(), command)
        target = self._record_file(name)
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(record)))
        partial.rename(target)
        self._children[name] = child
        return record

    def records(self) -> list[Record]:
        """Return all remembered processes; a damaged record counts as none."""
        found = []
        for file in sorted((self.directory / "run").glob("*.json")):
            try:
                found.append(Record(**json.loads(file.read_text())))
            except (ValueError, TypeError):
                continue
        return found

    def record(self, name: str) -> Record | None:
        """Return the record of one process."""
        return next((record for record in self.records() if record.name == name), None)

    def alive(self, name: str) -> bool:
        """Whether a process was started and still runs."""
        record = self.record(name)
        return record is not None and record.alive(self.directory)

    def stop(self, name: str, *, hard: bool = False, grace: float = 5) -> None:
        """Stop one process (`hard` skips the polite signal) and forget it."""
        grace = 0 if hard else grace
        record = self.record(name)
        if record and record.alive(self.directory):
            stop_pids([record.pid], grace=grace)
        child = self._children.pop(name, None)
        if child and child.poll() is None:  # its record was lost
            stop_pids([child.pid], grace=grace)
        if child:
            child.wait()
        self._record_file(name).unlink(missing_ok=True)

    def stop_all(self, *, grace: float = 5) -> None:
        """Stop everything that carries the marker, recorded or not."""
        mine = [child.pid for child in self._children.values() if child.poll() is None]
        stop_pids({*mine, *marked_processes(self.directory)}, grace=grace)
        for child in self._children.values():
            child.wait()
        self._children.clear()
        for file in (self.directory / "run").glob("*.json"):
            file.unlink(missing_ok=True)

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.directory / "log" / f"{name}.log"

    def log_tail(self, name: str, lines: int = 15) -> str:
        """Return the end of a process's log, for error messages."""
        file = self.log(name)
        if not file.exists():
            return "(no log)"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])

    def _record_file(self, name: str) -> Path:
        return self.directory / "run" / f"{name}.json"


def stop_pids(pids: Iterable[int], *, grace: float) -> None:
    """Terminate processes, wait up to `grace` seconds, then kill what is left."""
    # A start time pins each pid to the process it names now.
    waiting = {pid: started for pid in pids if (started := start_time(pid)) is not None}
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10)):
        if patience == 0:
            continue
        for pid, started in waiting.items():
            if start_time(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            waiting = {pid: s for pid, s in waiting.items() if start_time(pid) == s}
            if not waiting:
                return
            time.sleep(0.05)
