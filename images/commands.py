"""Run the programs that do the work: progress on standard error, nothing left behind when interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

_STARTED = time.monotonic()


def cache_directory() -> Path:
    """Where everything is kept that a second build does not have to make again."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "plumbline" / "images"


def say(message: str) -> None:
    """Print one progress line; standard output is for results that other programs read."""
    print(f"[{time.monotonic() - _STARTED:6.1f}s] {message}", file=sys.stderr, flush=True)


def run(command: list[str], on_line: Callable[[str], None] | None = None, cwd: Path | None = None) -> None:
    """Run a program to its end, quietly.

    The program gets a process group of its own, which is ended with it if this process is interrupted. `on_line` sees
    each line of its output. RuntimeError with the last lines if it fails.
    """
    tail: deque[str] = deque(maxlen=30)
    process = subprocess.Popen(
        command, cwd=cwd, text=True, errors="replace", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            tail.append(line)
            if on_line:
                on_line(line.rstrip())
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code:
        raise RuntimeError(f"{' '.join(command[:6])} ... ended with exit code {code}:\n{''.join(tail).strip()}")


def output(command: list[str]) -> str | None:
    """Return what a short question to a program is answered with, None if it fails."""
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def install_packages(programs: dict[str, str]) -> None:
    """Install the Debian packages of those programs (program -> package) that this machine lacks."""
    missing = sorted({package for program, package in programs.items() if not shutil.which(program)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise RuntimeError(f"install {', '.join(missing)}, or start Docker")
    say(f"installing Debian packages: {' '.join(missing)}")
    # Another apt-get may be at work on this machine: wait for its lock.
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600"]
    run([*apt, "update"])
    run([*apt, "install", "--no-install-recommends", *missing])
