"""Programs that try to get out of the sandbox or to use up what they share with others, and what becomes of them.

Run as a program it prints one JSON object: what every attack wrote and how it ended, what was left of its processes
and files, and whether the things that it was aimed at are unharmed. `test_sandbox` runs it as different users.

    python -m tests.trainer.sandbox_attacks DIRECTORY [LANDLOCK_VERSION]
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plumbline_trainer.rewards.sandbox.confinement import Limits
from plumbline_trainer.rewards.sandbox.supervisor import Sandbox, run_script

PROLOGUE = """
import ctypes, json, os, signal, sys
aim = json.loads(sys.stdin.read())
library = ctypes.CDLL(None, use_errno=True)

def attempt(what, *arguments):
    name = getattr(what, "__name__", str(what))
    try:
        result = what(*arguments)
    except OSError as error:
        print(name, arguments, "refused", error.errno)
    else:
        print(name, arguments, "SUCCEEDED", result)

def system_call(number, *arguments):
    ctypes.set_errno(0)
    if library.syscall(number, *[ctypes.c_long(value) for value in arguments]) < 0:
        raise OSError(ctypes.get_errno(), "refused")
"""

ARM = os.uname().machine == "aarch64"

NUMBERS = {
    "ptrace": 117 if ARM else 101,
    "process_vm_readv": 270 if ARM else 310,
    "tgkill": 131 if ARM else 234,
    "keyctl": 219 if ARM else 250,
    "bpf": 280 if ARM else 321,
    "userfaultfd": 282 if ARM else 323,
    "perf_event_open": 241 if ARM else 298,
    "unshare": 97 if ARM else 272,
    "mount": 40 if ARM else 165,
    "shmget": 194 if ARM else 29,
    "memfd_create": 279 if ARM else 319,
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "not yet invented": 1000,
}

REFUSED = {
    "files": """
def read(path): return open(path).read()
def write(path): open(path, "w")
for path in (aim["secret"], "/etc/passwd", "/proc/1/environ", "/proc/self/environ", f"/proc/{aim['supervisor']}/mem",
             f"/proc/{aim['parent']}/mem", f"/proc/{aim['victim']}/environ", f"/proc/{aim['parent']}/fd/3"):
    attempt(read, path)
for path in (aim["secret"], aim["beside"], "/tmp/written-by-a-test", "/dev/shm/written-by-a-test"):
    attempt(write, path)
attempt(os.listdir, "/")
attempt(os.listdir, "/proc")
attempt(os.listdir, aim["directory"])
attempt(os.unlink, aim["secret"])
attempt(os.rename, aim["secret"], aim["secret"] + "2")
attempt(os.truncate, aim["secret"], 0)
attempt(os.chmod, aim["secret"], 0)
attempt(os.utime, aim["secret"])
attempt(os.setxattr, aim["secret"], "user.mark", b"1")
attempt(os.mkdir, aim["beside"])
""",
    "links": """
def follow(name, make):
    make(aim["secret"], name)
    return open(name).read()
attempt(follow, "symbolic", os.symlink)
attempt(follow, "hard", os.link)
def exchange():
    os.mkdir("inside")
    os.symlink(aim["directory"], "outside")
    return os.listdir("outside")
attempt(exchange)
""",
    "sockets": """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET):
    attempt(socket.socket, family)
def connect(): return socket.create_connection(("127.0.0.1", aim["port"]), 1)
attempt(connect)
""",
    "signals": """
import fcntl, resource
def own(command, value):
    reading, writing = os.pipe()
    fcntl.fcntl(reading, command, value)
for process in (aim["victim"], aim["parent"], aim["supervisor"]):
    attempt(os.kill, process, signal.SIGKILL)
    attempt(os.kill, -process, signal.SIGKILL)
    attempt(os.pidfd_open, process)
    attempt(system_call, aim["numbers"]["tgkill"], process, process, 9)
    attempt(system_call, aim["numbers"]["ptrace"], 16, process, 0, 0)
    attempt(system_call, aim["numbers"]["process_vm_readv"], process, 0, 0, 0, 0, 0)
    attempt(own, fcntl.F_SETOWN, process)
    attempt(os.setpriority, os.PRIO_PROCESS, process, 19)
    attempt(os.sched_setaffinity, process, {0})
    attempt(resource.prlimit, process, resource.RLIMIT_NOFILE, (3, 3))
attempt(os.kill, -1, 0)
attempt(own, 10, 9)
attempt(os.setsid)
attempt(os.setpgid, 0, aim["parent"])
""",
    "kernel": """
for name, number in aim["numbers"].items():
    if name not in ("tgkill", "ptrace", "process_vm_readv"):
        attempt(system_call, number, 0, 0, 0, 0)
def prctl(option, value):
    if library.prctl(option, value, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "refused")
attempt(prctl, 1, 0)
attempt(prctl, 4, 1)
attempt(prctl, 36, 1)
def more_memory():
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError as error:
        raise OSError(1, "refused") from error
attempt(more_memory)
attempt(os.setuid, 0)
attempt(os.chroot, ".")
""",
    "processes": """
import subprocess
attempt(os.fork)
attempt(os.execv, sys.executable, [sys.executable])
attempt(subprocess.run, ["/bin/true"])
""",
}
"""Programs of attempts that must all be refused."""

ENDLESS = {
    "infinite loop": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "sleep": "import time\ntime.sleep(3600)",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "ignores signals": (
        "import signal\nfor number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_IGN)\nwhile True: pass"
    ),
    "closes its output": "import os\nos.close(1)\nwhile True: pass",
}
"""Programs that never end: the clock ends them."""

GREEDY = {
    "memory bomb": "kept = []\nwhile True: kept.append(bytearray(2**20))",
    "one large file": "with open('large', 'wb') as file:\n    while True: file.write(bytes(2**16))",
    "many files": (
        "number = 0\nwhile True:\n    number += 1\n    with open(str(number), 'wb') as file: file.write(bytes(2**16))"
    ),
    "many empty files": "number = 0\nwhile True:\n    number += 1\n    open(str(number), 'wb').close()",
    "deep directories": "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
    "prints without end": "while True: print('x' * 4096)",
    "threads": (
        "import threading, time\nthreading.stack_size(65536)\n"
        "while True: threading.Thread(target=time.sleep, args=(3600,)).start()"
    ),
    "open files": "import os\nkept = []\nwhile True: kept.append(os.dup(1))",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
}
"""Programs that use up something."""

WITH_CHILDREN = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb of orphans": "import os\nwhile True:\n    if os.fork(): os._exit(0)",
    "memory of many": (
        "import os, time\nfor _ in range(3):\n    if not os.fork(): break\n"
        "kept = bytearray(b'x') * (100 * 2**20)\ntime.sleep(3600)"
    ),
    "daemon": (
        "import os, time\nif os.fork():\n    os._exit(0)\n"
        "try:\n    os.setsid()\n    print('SUCCEEDED')\nexcept OSError:\n    pass\n"
        "if os.fork():\n    os._exit(0)\ntime.sleep(3600)"
    ),
    "kills its group": "import os, signal\nos.fork()\nos.kill(0, signal.SIGKILL)",
}
"""Programs that may start a few processes."""

LEAVING = {
    "closed directory": "import os\nos.mkdir('closed', 0)\nos.mkdir('open')\nopen('open/file', 'w').write('x')",
    "leaves links": (
        "import os\nos.symlink({directory!r}, 'outside')\nos.symlink('nowhere', 'broken')\nos.mkfifo('pipe')"
    ),
    "exits": "import os\nos._exit(0)",
    "crashes": "import ctypes\nctypes.string_at(0)",
}
"""Programs that end by themselves and leave something behind."""

FEW = Limits(memory_bytes=256 * 2**20, file_bytes=2**20, processes=1, processor_seconds=2)
CHILDREN = Limits(memory_bytes=200 * 2**20, file_bytes=2**20, processes=4, processor_seconds=2)


def main() -> None:
    """Runs every attack once."""
    directory = Path(sys.argv[1])
    secret = directory / "secret"
    secret.write_text("the secret")
    nowhere = subprocess.DEVNULL
    victim = subprocess.Popen(["sleep", "600"], stdin=nowhere, stdout=nowhere, stderr=nowhere)
    version = int(sys.argv[2]) if len(sys.argv) > 2 else None
    results: dict[str, dict[str, object]] = {}
    with socket.create_server(("127.0.0.1", 0)) as server, Sandbox(version) as sandbox:
        aim = {
            "secret": str(secret), "beside": str(directory / "beside"), "directory": str(directory),
            "victim": victim.pid, "parent": sandbox.process, "supervisor": os.getpid(),
            "port": server.getsockname()[1], "numbers": NUMBERS,
        }  # fmt: skip

        def run(name: str, source: str, limits: Limits, seconds: float) -> None:
            began = time.monotonic()
            output = run_script(sandbox, source, json.dumps(aim).encode(), limits, seconds=seconds, output_bytes=2**16)
            left = [process for process in below(sandbox.process) if process != victim.pid]
            results[name] = {
                "written": output.written.decode(errors="replace")[:8192],
                "ended": str(output.ended),
                "succeeded": output.succeeded,
                "seconds": time.monotonic() - began,
                "processes": left,
                "files": [path.name for path in Path(tempfile.gettempdir()).iterdir()],
            }

        for name, source in REFUSED.items():
            run(name, PROLOGUE + source, FEW, 10)
        for name, source in ENDLESS.items():
            run(name, source, FEW, 0.3)
        for name, source in GREEDY.items():
            run(name, source, FEW, 5)
        for name, source in WITH_CHILDREN.items():
            run(name, source, CHILDREN, 5)
        for name, source in LEAVING.items():
            run(name, source.format(directory=str(directory)), FEW, 5)
        closed = os.geteuid() == 0 or not readable(Path(f"/proc/{sandbox.process}/mem"))
        after = run_script(sandbox, "print(6 * 7)", b"", FEW, seconds=10, output_bytes=100)
    unharmed = {
        "secret": secret.read_text() == "the secret" and secret.stat().st_mode & 0o777 != 0,
        "victim": victim.poll() is None,
        "nothing written": [path.name for path in directory.iterdir()] == ["secret"],
        "memory": closed,
        "sandbox": after.written == b"42\n",
        "priority": os.getpriority(os.PRIO_PROCESS, victim.pid) == os.getpriority(os.PRIO_PROCESS, 0),
    }
    victim.kill()
    victim.wait()
    print(json.dumps({"results": results, "unharmed": unharmed, "user": os.geteuid()}))


def readable(file: Path) -> bool:
    """Whether this process may read a file."""
    try:
        file.open("rb").close()
    except PermissionError:
        return False
    return True


def below(root: int) -> list[int]:
    """Processes that descend from one."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {root}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {root})


if __name__ == "__main__":
    main()
