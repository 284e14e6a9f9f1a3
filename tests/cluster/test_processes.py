"""Only processes that are certainly ours may ever be stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.processes import MARKER, Processes, carries_marker, marked_processes, start_time

SLEEP = ["sleep", "60"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    table = Processes(tmp_path, detached=True)
    yield table
    table.stop_all(grace=0)


def test_started_process_is_remembered_and_stopped(processes: Processes) -> None:
    record = processes.start("one", SLEEP)
    again = Processes(processes.directory, detached=True)
    assert again.alive("one")
    assert marked_processes(processes.directory) == [record.pid]
    again.stop("one", hard=True)
    assert not processes.alive("one")
    assert processes.records() == []


def test_record_of_another_boot_or_start_is_not_alive(processes: Processes) -> None:
    processes.start("one", SLEEP)
    file = processes.directory / "run/one.json"
    content = json.loads(file.read_text())
    for change in ({"boot": "another"}, {"started": content["started"] + 1}):
        file.write_text(json.dumps({**content, **change}))
        assert not processes.alive("one")


def test_recorded_pid_of_a_stranger_is_left_alone(processes: Processes) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        processes.start("one", SLEEP)
        file = processes.directory / "run/one.json"
        content = json.loads(file.read_text())
        changed = {**content, "pid": stranger.pid, "started": start_time(stranger.pid)}
        file.write_text(json.dumps(changed))
        again = Processes(processes.directory, detached=True)
        again.stop("one", hard=True)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_process_without_record_is_found_by_its_marker(processes: Processes) -> None:
    record = processes.start("one", SLEEP)
    (processes.directory / "run/one.json").unlink()
    processes.stop_all(grace=0)
    assert start_time(record.pid) is None


def test_marker_of_another_directory_does_not_count(processes: Processes, tmp_path: Path) -> None:
    record = processes.start("one", SLEEP)
    assert record.alive(tmp_path)
    assert not record.alive(tmp_path.parent)
    assert not carries_marker(record.pid, tmp_path.parent)


def test_damaged_record_counts_as_none(processes: Processes) -> None:
    processes.start("one", SLEEP)
    (processes.directory / "run/two.json").write_text("{")
    assert [record.name for record in processes.records()] == ["one"]


def test_attached_processes_die_with_a_killed_starter(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from cluster.processes import Processes\n"
        "record = Processes(Path(sys.argv[1]), detached=False).start('one', ['sleep', '60'])\n"
        "running = Path(f'/proc/{record.pid}/cmdline')\n"
        "while not running.read_bytes().startswith(b'sleep'):  # setpriv has yet to bind it to this process\n"
        "    time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    record = Processes(tmp_path, detached=False).record("one")
    assert record is not None
    deadline = time.monotonic() + 10
    while start_time(record.pid) is not None:
        assert time.monotonic() < deadline, "the process outlives its starter"
        time.sleep(0.01)


def test_marker_is_in_the_environment(processes: Processes) -> None:
    record = processes.start("one", SLEEP)
    assert record.alive(processes.directory)
    environment = Path(f"/proc/{record.pid}/environ").read_bytes()
    assert f"{MARKER}={processes.directory}".encode() in environment
