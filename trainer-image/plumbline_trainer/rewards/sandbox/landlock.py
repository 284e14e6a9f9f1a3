"""Landlock: which files a process may use, decided by the process itself (linux/landlock.h, kernel 5.13 and newer).

Kernels differ in what they can restrict; each restriction is asked for only where the kernel knows it. `abi_version`
tells how much that is: 2 moving files between directories, 3 cutting files, 4 TCP ports, 5 device control, 6 signals
and abstract sockets. Not covered by any version: looking files up (names, sizes, times) and changing modes, owners,
times and attributes; the seccomp filter refuses the latter.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

SIGNALS_SCOPED = 6
"""The first version that keeps signals inside the sandbox."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_QUERY_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = (1 << bit for bit in range(4))
_REMOVE_DIRECTORY, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIRECTORY, _MAKE_FILE, _MAKE_PIPE, _MAKE_LINK = 1 << 7, 1 << 8, 1 << 10, 1 << 12
_MOVE, _CUT = 1 << 13, 1 << 14
_RIGHTS_OF_VERSION = (0, 13, 14, 15, 15, 16)
"""Number of known file rights, the lowest bits, by version; the last holds for all newer versions."""

_READ = _EXECUTE | _READ_FILE | _READ_DIRECTORY
_USE = _WRITE_FILE | _READ_FILE
_OWN = (
    _READ | _WRITE_FILE | _REMOVE_DIRECTORY | _REMOVE_FILE
    | _MAKE_DIRECTORY | _MAKE_FILE | _MAKE_PIPE | _MAKE_LINK | _MOVE | _CUT
)  # fmt: skip
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _CUT

_TCP_BIND_AND_CONNECT = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

_library = ctypes.CDLL(None, use_errno=True)


def abi_version() -> int:
    """What the kernel can restrict; 0 where it has no Landlock or has it switched off."""
    return max(0, _library.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_QUERY_VERSION)))


def restrict(
    version: int, *, readable: Iterable[Path], usable: Iterable[Path], own: Iterable[Path], network: bool
) -> None:
    """Leaves this thread, and all that it starts, these files alone, for good; sets no_new_privs.

    `readable` are files and directories to read and execute, `usable` devices to read and write, `own` directories to
    do anything in. Paths that do not exist are passed over. Without `network` TCP is refused where `version` allows.
    Raises `OSError`.
    """
    rights = (1 << _RIGHTS_OF_VERSION[min(version, len(_RIGHTS_OF_VERSION) - 1)]) - 1
    fields = [rights]
    if version >= 4:
        fields.append(0 if network else _TCP_BIND_AND_CONNECT)
    if version >= SIGNALS_SCOPED:
        fields.append(_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for paths, wanted in ((readable, _READ), (usable, _USE), (own, _OWN)):
            for path in paths:
                _allow(ruleset, path, wanted & rights)
        if _library.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what cannot be reached needs no permission
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result: int = _library.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock call {number}: {os.strerror(code)}")
    return result
