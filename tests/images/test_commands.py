"""Programs are run to their end or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from images.commands import run

ROOT = Path(__file__).resolve().parents[2]


def test_a_failure_shows_the_last_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"exit code 3:\nline 11(.|\n)*line 40$"):
        run(["sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 3"])
    assert capfd.readouterr() == ("", "")


def test_lines_are_seen_while_the_program_runs() -> None:
    seen: list[str] = []
    run(["sh", "-c", "echo one; echo two >&2"], on_line=seen.append)
    assert sorted(seen) == ["one", "two"]


def test_an_interruption_ends_the_program_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        # whoever started the tests in the background may have them ignore SIGINT, which is inherited
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"from images.commands import run; run(['sh', '-c', 'sleep 300 & echo $! $$ > {pids}; wait'])"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (pids.exists() and pids.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    for pid in pids.read_text().split():
        while alive(int(pid)):
            assert time.monotonic() < deadline, f"{pid} still runs"
            time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
