"""The sandbox under attack, as root and as an ordinary user; where Landlock is missing; and what it leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline_api.sources import Reward
from plumbline_trainer.rewards.rehearsal import weaknesses
from plumbline_trainer.rewards.sandbox import landlock, seccomp
from plumbline_trainer.rewards.sandbox.confinement import Limits
from plumbline_trainer.rewards.sandbox.supervisor import Sandbox, SandboxError, run_script, run_test
from plumbline_trainer.rewards.sandbox.usage import directory_bytes, remove_tree
from tests.trainer.sandbox_attacks import ENDLESS, GREEDY, LEAVING, REFUSED, WITH_CHILDREN

FEW = Limits(memory_bytes=256 * 2**20, file_bytes=2**20, processor_seconds=5)
ORDINARY_USER = 54321
ENDS = {
    "one large file": "ended with exit code 1",
    "many files": "wrote more than 1048576 bytes of files",
    "many empty files": "wrote more than 1048576 bytes of files",
    "deep directories": "wrote more than 1048576 bytes of files",
    "prints without end": "wrote more than 65536 bytes",
    "memory bomb": "ended with exit code 1",
    "open files": "ended with exit code 1",
    "threads": "had more than 128 threads",
    "fork bomb": "had more than 4 processes",
    "memory of many": "used more than 209715200 bytes of memory",
    "kills its group": "ended by signal SIGKILL",
    "crashes": "ended by signal SIGSEGV",
    "exits": "ended with exit code 0",
}


def attacked(folder, *, user=None, landlock_version=None):
    """What `sandbox_attacks` reports. An ordinary user that root becomes may still read, or it could not start."""
    aims, temporary = folder / "aims", folder / "temporary"
    for directory in (aims, temporary):
        directory.mkdir()
    for directory in (folder, *folder.parents):
        if not directory.stat().st_mode & 1:
            directory.chmod(directory.stat().st_mode | 1)  # pytest's own are closed to other users
    command = [sys.executable, "-m", "tests.trainer.sandbox_attacks", str(aims)]
    if landlock_version is not None:
        command.append(str(landlock_version))
    if user is not None:
        for directory in (aims, temporary):
            os.chown(directory, user, user)
        reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        become = [f"--reuid={user}", f"--regid={user}", "--clear-groups", *reading]
        command = [shutil.which("setpriv"), *become, "--bounding-set=-all,+dac_read_search", *command]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["this user", "an ordinary user"])
def report(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacks")
    if request.param == "this user":
        return attacked(folder)
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("this user cannot become another one")
    return attacked(folder, user=ORDINARY_USER)


@pytest.mark.parametrize("attack", REFUSED)
def test_what_is_not_the_programs_is_refused(report, attack):
    result = report["results"][attack]
    assert result["succeeded"], result
    lines = result["written"].splitlines()
    assert len(lines) >= 3
    assert [line for line in lines if " refused " not in line] == []


@pytest.mark.parametrize("attack", ENDLESS)
def test_the_clock_ends_what_does_not_end(report, attack):
    result = report["results"][attack]
    assert result["ended"] == "did not end within 0.3 s"
    assert result["seconds"] < 5


@pytest.mark.parametrize("attack", [*GREEDY, *WITH_CHILDREN, *LEAVING])
def test_limits_end_programs_and_nothing_else(report, attack):
    result = report["results"][attack]
    assert result["ended"] == ENDS.get(attack, result["ended"])
    assert "SUCCEEDED" not in result["written"]
    assert result["seconds"] < 5


@pytest.mark.parametrize("attack", [*REFUSED, *ENDLESS, *GREEDY, *WITH_CHILDREN, *LEAVING])
def test_no_process_and_no_file_is_left(report, attack):
    assert report["results"][attack]["processes"] == []
    assert report["results"][attack]["files"] == []


def test_what_was_attacked_is_unharmed(report):
    assert all(report["unharmed"].values()), report["unharmed"]


@pytest.fixture
def sandbox():
    with Sandbox() as sandbox:
        yield sandbox


def run(sandbox, source, given=b"", limits=FEW, seconds=10.0):
    return run_script(sandbox, source, given, limits, seconds=seconds, output_bytes=10_000)


def test_a_program_reads_its_input_and_writes_its_output(sandbox):
    output = run(sandbox, "import sys\nfor line in sys.stdin: print(int(line) ** 2)", b"3\n4\n")
    assert output.succeeded
    assert output.written == b"9\n16\n"


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("print(input() + input())", b"ab\n"),
        ("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", b"a\nb\n"),
        ("import os; os.write(1, os.read(0, 100))", b"a\nb\n"),
        ("print(open(0).read())", b"a\nb\n\n"),
        ("if __name__ == '__main__': print('main')", b"main\n"),
        ("import atexit; atexit.register(print, 'end'); print('begin')", b"begin\nend\n"),
        ("import sys; print('before'); sys.exit(0)", b"before\n"),
        ("import threading; threading.Thread(target=lambda: print('thread')).start()", b"thread\n"),
        ("open('file', 'w').write('kept'); print(open('file').read())", b"kept\n"),
        ("import tempfile; print(tempfile.TemporaryFile('w').write('abc'))", b"3\n"),
        ("import contextvars, asyncio; print(asyncio.run(asyncio.sleep(0, 'slept')))", b"slept\n"),
        ("import numpy; print(numpy.arange(4).sum())", b"6\n"),
        ("print(sorted(__import__('os').environ))", None),
        (
            "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
            "def depth(n): return n and 1 + depth(n - 1)\n"
            "thread = threading.Thread(target=lambda: print(depth(20000)))\nthread.start()\nthread.join()",
            b"20000\n",
        ),
    ],
)
def test_ordinary_programs_run_as_ever(sandbox, source, written):
    output = run(sandbox, source, b"a\nb\n")
    assert output.succeeded, output
    assert written is None or output.written == written


@pytest.mark.parametrize(
    "source", ["raise ValueError", "import sys; sys.exit(3)", "sys.exit('why')", "this is no Python"]
)
def test_a_program_that_fails_has_not_succeeded(sandbox, source):
    assert not run(sandbox, source).succeeded


def test_programs_see_nothing_of_the_environment(sandbox, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Sandbox() as fresh:
        assert b"HF_TOKEN" not in run(fresh, "import os; print(dict(os.environ))").written


def test_programs_know_nothing_of_each_other(sandbox):
    run(sandbox, "import builtins, math, json\nmath.pi = builtins.left = 3\nopen('left', 'w').write('here')")
    seen = run(sandbox, "import builtins, math, os; print(math.pi > 3, hasattr(builtins, 'left'), os.listdir('.'))")
    assert seen.written == b"True False []\n"


def test_hashes_and_so_the_order_of_sets_are_always_the_same(sandbox):
    source = "print(hash('text'))"
    with Sandbox() as other:
        assert run(sandbox, source).written == run(other, source).written


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_nobody(sandbox):
    assert run(sandbox, "import os; print(os.getresuid(), os.getgroups())").written == b"(65534, 65534, 65534) []\n"


def test_a_network_is_given_only_on_demand(sandbox):
    source = (
        "import socket\nprint(int(socket.socket(socket.AF_INET).family))\n"
        "try: socket.socket(socket.AF_PACKET)\nexcept OSError as error: print(error.errno)"
    )
    assert not run(sandbox, source).succeeded
    given = run(sandbox, source, limits=Limits(memory_bytes=2**28, file_bytes=2**20, network=True))
    assert given.written == b"2\n13\n"


def test_children_run_where_they_may(sandbox):
    limits = Limits(memory_bytes=2**28, file_bytes=2**20, processes=4)
    source = (
        "import subprocess\nprint(subprocess.run(['echo', 'child'], capture_output=True).stdout)\n"
        "try: subprocess.run(['sleep', '60'], timeout=0.1)\nexcept subprocess.TimeoutExpired: print('ended')"
    )
    written = b"b'child\\n'\n"
    if landlock.abi_version() >= landlock.SIGNALS_SCOPED:
        assert run(sandbox, source, limits=limits).written == written + b"ended\n"


def test_without_landlock_programs_open_no_file_at_all(tmp_path):
    report = attacked(tmp_path, landlock_version=0)
    assert all(report["unharmed"].values())
    for attack in ("files", "links", "kernel"):  # the others import modules, which would open files
        assert report["results"][attack]["succeeded"]
    for result in report["results"].values():
        assert "SUCCEEDED" not in result["written"]
        assert result["processes"] == result["files"] == []


def test_without_landlock_programs_still_run():
    with Sandbox(landlock_version=0) as sandbox:
        assert run(sandbox, "import heapq, math\nprint(math.gcd(12, int(input())))", b"18\n").written == b"6\n"
        assert not run(sandbox, "open('file', 'w')").succeeded


@pytest.mark.parametrize("version", range(1, 7))
def test_every_version_of_landlock_keeps_files_closed(version, tmp_path):
    if landlock.abi_version() < version:
        pytest.skip("this kernel's Landlock is older")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with Sandbox(landlock_version=version) as sandbox:
        assert run(sandbox, "open('own', 'w').write('x'); print(open('own').read())").written == b"x\n"
        assert not run(sandbox, f"open({str(secret)!r})").succeeded
        assert not run(sandbox, f"open({str(secret)!r}, 'w')").succeeded
        assert not run(sandbox, f"import os; os.truncate({str(secret)!r}, 0)").succeeded
    assert secret.read_text() == "secret"


def test_pre_flight_says_what_the_kernel_lacks():
    rewards = [
        Reward(name="code", verifier={"code": {}}),
        Reward(name="own", verifier={"python": {"path": "reward.py"}}),
        Reward(name="same", verifier={"exactMatch": {}}),
    ]
    assert weaknesses(rewards, landlock.SIGNALS_SCOPED) == []
    [signals] = weaknesses(rewards, landlock.SIGNALS_SCOPED - 1)
    assert signals.startswith("reward own: this kernel's Landlock does not scope signals")
    closed, open_files = weaknesses(rewards, 0)
    assert "reward code: this kernel has no Landlock, so its code can open no file" in closed
    assert "reward own: this kernel has no Landlock, so its code can open all files" in open_files


def test_a_machine_without_the_means_is_named(tmp_path):
    """Here a kernel that does not let the process set its limits as they have to be."""
    with Sandbox() as sandbox:
        impossible = Limits(memory_bytes=2**80, file_bytes=2**20)
        with pytest.raises(SandboxError, match="no sandbox on this machine: "):
            run(sandbox, "print(1)", limits=impossible)
        assert run(sandbox, "print(1)").written == b"1\n"


def test_an_unknown_architecture_is_refused(monkeypatch):
    monkeypatch.setattr(seccomp, "ARCHITECTURES", {})
    with pytest.raises(seccomp.SeccompUnavailable, match="no system call numbers"):
        seccomp.restrict(seccomp.Policy())


def test_a_test_reaches_the_program_and_not_the_other_way(sandbox):
    test = {"source": "assert add(1, 2) == 3", "function": None, "candidate": False, "only": None}
    assert run_test(sandbox, "def add(a, b): return a + b", test, FEW, seconds=10)[0]
    assert not run_test(sandbox, "def add(a, b): return a - b", test, FEW, seconds=10)[0]


def test_a_tree_is_removed_whatever_is_in_it(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    root.mkdir()
    (root / ".moved-0").write_text("a name that moving would use")
    (root / "link").symlink_to(outside)
    place = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", 0o700, dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.mkdir("closed", 0, dir_fd=place)
    os.close(place)
    remove_tree(root)
    assert not root.exists()
    assert (outside / "file").read_text() == "kept"


def test_the_size_of_a_directory_counts_entries_and_does_not_follow_links(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100_000))
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("/usr")
    assert 100_000 < directory_bytes(tmp_path, 10**9) < 130_000
    assert directory_bytes(tmp_path, 1000) > 1000
    assert directory_bytes(Path(tmp_path, "missing"), 1000) == 0
