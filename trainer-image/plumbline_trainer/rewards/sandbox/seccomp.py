"""A seccomp filter that takes from a process what code under test has no business with.

`assemble` is pure: a policy in, a classic BPF program out (struct sock_filter, linux/filter.h; struct seccomp_data,
linux/seccomp.h). The filter lists what is refused. Calls newer than the list and calls by a foreign convention (32-bit
code, the x32 numbers) are refused as a whole.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from plumbline_trainer.rewards.sandbox.system_calls import ARCHITECTURES, LAST_KNOWN, Architecture

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020000
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_SIGNALS_BY_DESCRIPTOR = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: whom a descriptor signals, and with what
_DEVICE_CONTROL = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
_OWN_SETTINGS = (1, 4, 8, 28, 35, 36, 47, 0x59616D61)
# PR_SET_PDEATHSIG, _DUMPABLE, _KEEPCAPS, _SECUREBITS, _MM, _CHILD_SUBREAPER, _CAP_AMBIENT, _PTRACER

_NEVER = (
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "process_madvise", "process_mrelease",
    "perf_event_open", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "setpriority", "ioprio_set",
    "migrate_pages", "move_pages", "setsid", "setpgid",
    "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree",
    "mount_setattr", "unshare", "setns", "swapon", "swapoff", "quotactl", "quotactl_fd", "acct", "init_module",
    "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "syslog", "settimeofday",
    "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "iopl", "ioperm", "modify_ldt",
    "personality", "vhangup",
    "bpf", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl", "add_key", "request_key",
    "name_to_handle_at", "open_by_handle_at", "fanotify_init", "lookup_dcookie", "inotify_init", "inotify_init1",
    "memfd_create", "memfd_secret", "shmget", "shmat", "semget", "msgget", "mq_open", "mq_unlink",
    "chmod", "fchmodat", "chown", "lchown", "fchownat", "setxattr", "lsetxattr", "removexattr", "lremovexattr",
    "utime", "utimes", "futimesat", "utimensat",
)  # fmt: skip

_FILES_BY_NAME = (
    "open", "openat", "openat2", "creat", "mkdir", "mkdirat", "mknod", "mknodat", "link", "linkat", "symlink",
    "symlinkat", "unlink", "unlinkat", "rmdir", "truncate", "rename", "renameat", "renameat2",
)  # fmt: skip

Instruction = tuple[int, int, int, int]
"""(operation, jump if true, jump if false, operand)"""


@dataclass(frozen=True)
class Policy:
    """What differs between sandboxes."""

    network: bool = False
    """Internet sockets are allowed."""

    children: bool = False
    """Processes may be started. Threads always may."""

    files: bool = True
    """Files may be opened by name: only where something else, Landlock, says which."""

    foreign_signals: bool = False
    """The filter lets signals to any process pass: only where something else, Landlock, keeps them in."""


class SeccompUnavailable(OSError):
    """The kernel or the machine's architecture does not do what the sandbox rests on."""


def restrict(policy: Policy) -> None:
    """Puts this thread, and all that it starts, under the policy for good; sets no_new_privs.

    Raises `SeccompUnavailable` where the kernel refuses or the architecture is not known.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise SeccompUnavailable(f"no system call numbers of {machine} are known")
    program = assemble(policy, ARCHITECTURES[machine], os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    library = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, (1, 0, 0, 0)), (_PR_SET_SECCOMP, (_SECCOMP_MODE_FILTER, header))):
        arguments = [item if isinstance(item, bytes) else ctypes.c_ulong(item) for item in value]
        if library.prctl(option, *arguments) != 0:
            code = ctypes.get_errno()
            raise SeccompUnavailable(code, f"prctl({option}): {os.strerror(code)}")


def assemble(policy: Policy, architecture: Architecture, own_process: int) -> bytes:
    """The filter of a process with the id `own_process`, 8 bytes an instruction."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER, 0, 1, LAST_KNOWN),
        _refuse(errno.ENOSYS),
    ]

    def on(names: Iterable[str], block: list[Instruction]) -> None:
        """`block` decides about these calls; it ends with a verdict."""
        for number in architecture.numbers(names):
            program.append((_EQUAL, 0, len(block), number))
            program.extend(block)

    def only(argument: int, values: Iterable[int]) -> list[Instruction]:
        """Allowed if the argument's lower half is one of the values."""
        listed = list(values)
        tests = [(_EQUAL, len(listed) - index, 0, value) for index, value in enumerate(listed)]
        return [_load_argument(argument), *tests, _refuse(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]

    def none_of(argument: int, values: Iterable[int]) -> list[Instruction]:
        """Refused if the argument's lower half is one of the values."""
        listed = list(values)
        tests = [(_EQUAL, len(listed) - index, 0, value) for index, value in enumerate(listed)]
        return [_load_argument(argument), *tests, (_RETURN, 0, 0, _ALLOW), _refuse(errno.EPERM)]

    on(_NEVER, [_refuse(errno.EPERM)])
    if not policy.files:
        on(_FILES_BY_NAME, [_refuse(errno.EACCES)])
    on(["clone3"], [_refuse(errno.ENOSYS)])  # its flags lie in memory; the C library falls back to clone
    on(["socketpair"], only(0, [_UNIX]))
    if policy.network:
        families = [(_EQUAL, 3, 0, _INET), (_EQUAL, 2, 0, _INET6), (_EQUAL, 1, 0, _NETLINK)]
        on(["socket"], [_load_argument(0), *families, _refuse(errno.EACCES), (_RETURN, 0, 0, _ALLOW)])
    else:
        on(["socket"], [_refuse(errno.EACCES)])
    allowed, refused = (_RETURN, 0, 0, _ALLOW), _refuse(errno.EPERM)
    if policy.children:
        on(["clone"], [_load_argument(0), (_ANY_BIT, 1, 0, _NEW_NAMESPACES), allowed, refused])
    else:
        on(["fork", "vfork", "execve", "execveat"], [refused])
        thread = [(_ANY_BIT, 2, 0, _NEW_NAMESPACES), (_ANY_BIT, 0, 1, _CLONE_THREAD), allowed, refused]
        on(["clone"], [_load_argument(0), *thread])
    if not policy.foreign_signals:
        on(["kill"], only(0, [0, own_process]))
        on(["tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"], only(0, [own_process]))
        on(["tkill"], [refused])
    on(["prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"],
       only(0, [0, own_process]))  # fmt: skip
    on(["prctl"], none_of(0, _OWN_SETTINGS))
    on(["fcntl"], none_of(1, _SIGNALS_BY_DESCRIPTOR))
    on(["ioctl"], none_of(1, _DEVICE_CONTROL))
    program.append(allowed)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _load_argument(index: int) -> Instruction:
    """The lower half of an argument, on little-endian machines: what the kernel reads of an int."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _refuse(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)
