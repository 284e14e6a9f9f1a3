"""What a process does to itself before it runs code that nobody has read.

In this order: the user `nobody` if it was root, death with its parent, no core dump and no look into its memory, limits
of resources, Landlock, seccomp. Nothing of it can be taken back, and all of it passes on to children.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plumbline_trainer.rewards.sandbox import landlock, seccomp

NOBODY = 65534
_NICE = 10
OPEN_FILES = 256

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 1, 4, 8
_CAPABILITIES_OF_64_BITS, _CAP_DAC_READ_SEARCH = 0x20080522, 2
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
_NAMES_AND_CERTIFICATES = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols",
    "/etc/host.conf", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
)  # fmt: skip


_NOT_OF_THE_IMAGE = frozenset({"dev", "plumbline", "proc", "run", "sys", "tmp"})
"""Top directories with the job's volumes, other processes and their files, and devices."""

_MACHINE = ("/proc/cpuinfo", "/proc/meminfo", "/proc/sys/vm/overcommit_memory")


@dataclass(frozen=True)
class Limits:
    """What a sandboxed process may use. Time is its parent's to keep."""

    memory_bytes: int
    """Addresses that a process may add to those it starts with; with children also the memory of all together."""

    file_bytes: int
    """Size of a file, and of everything in the temporary directory together."""

    processes: int = 1
    """Processes at a time, the first included; 1 takes away the system calls that start them."""

    processor_seconds: int | None = None
    """Processor time of a process, all its threads together."""

    network: bool = False


def become_unprivileged(*, landlocked: bool) -> None:
    """Turns root into `nobody`. A root that may not change its user stays: what follows holds all the same.

    An interpreter that `nobody` cannot read, such as one below root's home, would leave no library to import. There
    the process keeps the one capability to read any file, if it is `landlocked` afterwards, which decides what that is.
    """
    if os.geteuid() != 0:
        return
    keeps_reading = landlocked and not _readable_by_all(Path(os.__file__))
    library = ctypes.CDLL(None, use_errno=True)
    with suppress(PermissionError):
        library.prctl(_PR_SET_KEEPCAPS, int(keeps_reading), 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        if keeps_reading:
            header = struct.pack("=Ii", _CAPABILITIES_OF_64_BITS, 0)
            library.capset(header, struct.pack("=6I", *(1 << _CAP_DAC_READ_SEARCH,) * 2, 0, 0, 0, 0))


def confine(limits: Limits, directory: Path | None, readable: Sequence[Path], landlock_version: int) -> None:
    """Restricts this process for good. It has a single thread, and its open files are those it may keep.

    `directory` is the only place where it may write, and becomes its current one. `readable` adds to the interpreter,
    its libraries and the system's. With `landlock_version` 0 a process without children can open no file by name at
    all; one with children opens what its user may. Raises `OSError` where the kernel refuses.
    """
    become_unprivileged(landlocked=landlock_version > 0)
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _limit(limits)
    os.umask(0o077)
    os.chdir(directory or "/")
    children = limits.processes > 1
    if children:
        os.nice(_NICE)  # so that even very many of them leave time to whoever ends them
    if landlock_version:
        paths = [*map(Path, _SYSTEM), *interpreter_paths(), *readable]
        if limits.network:
            paths += map(Path, _NAMES_AND_CERTIFICATES)
        landlock.restrict(
            landlock_version,
            readable=paths,
            usable=map(Path, _DEVICES),
            own=[directory] if directory else [],
            network=limits.network,
        )
    seccomp.restrict(
        seccomp.Policy(
            network=limits.network,
            children=children,
            files=landlock_version > 0 or children,
            foreign_signals=children and landlock_version >= landlock.SIGNALS_SCOPED,
        )
    )


def confine_program(directory: Path, readable: Sequence[Path], landlock_version: int) -> None:
    """Restricts this process, which is about to become a program of the image that judges completions, for good.

    The program is the job's own and may be large: it reads what the image holds and starts what it likes, as long as it
    likes to within its caller's patience, and without a bound on memory but the pod's. What a completion could make of
    it is taken away: other places to write than `directory`, the job's volumes but for `readable`, any socket but those
    between its own processes, other processes, and a session of its own in which it would outlive its caller. Raises
    `OSError` where the kernel refuses. With `landlock_version` 0 it opens what its user may.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _set(resource.RLIMIT_CORE, 0)
    if landlock_version:
        image = [path for path in Path("/").iterdir() if path.name not in _NOT_OF_THE_IMAGE]
        landlock.restrict(
            landlock_version,
            readable=[*image, *map(Path, _MACHINE), *readable],
            usable=map(Path, _DEVICES),
            own=[directory],
            network=False,
        )
    foreign_signals = landlock_version >= landlock.SIGNALS_SCOPED
    seccomp.restrict(seccomp.Policy(children=True, foreign_signals=foreign_signals))


def interpreter_paths() -> list[Path]:
    """Where the interpreter and its packages are."""
    packages = [Path(entry) for entry in sys.path if "site-packages" in entry or "dist-packages" in entry]
    return [Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.base_prefix)), *packages]


def _readable_by_all(file: Path) -> bool:
    open_to_all = all(directory.stat().st_mode & stat.S_IXOTH for directory in file.parents)
    return open_to_all and bool(file.stat().st_mode & stat.S_IROTH)


def _limit(limits: Limits) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _set(resource.RLIMIT_AS, mapped + limits.memory_bytes)
    _set(resource.RLIMIT_FSIZE, limits.file_bytes)
    _set(resource.RLIMIT_NOFILE, OPEN_FILES)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_MEMLOCK, 0)
    _set(resource.RLIMIT_MSGQUEUE, 0)
    if limits.processor_seconds is not None:
        _set(resource.RLIMIT_CPU, limits.processor_seconds)


def _set(kind: int, wanted: int) -> None:
    """Both limits, so that the process cannot raise them; a stricter one that is there already stays."""
    _, hard = resource.getrlimit(kind)
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (value, value))
