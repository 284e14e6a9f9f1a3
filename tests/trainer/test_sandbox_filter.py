"""The seccomp filter, decided call by call for both architectures, and the numbers of system calls."""

import errno
import re
import struct
from pathlib import Path

import pytest

from plumbline_trainer.rewards.sandbox import seccomp
from plumbline_trainer.rewards.sandbox.seccomp import Policy, assemble
from plumbline_trainer.rewards.sandbox.system_calls import ARCHITECTURES, NUMBERS

OWN = 4711
ALLOWED = "allowed"
KILLED = "killed"
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
CLONE_THREAD, CLONE_NEWUSER, CLONE_VM = 0x10000, 0x10000000, 0x100

architectures = pytest.mark.parametrize("machine", ARCHITECTURES)


def decide(program, number, arguments=(), audit=None):
    """What a filter says to a call: an interpreter of the instructions that the kernel runs."""
    data = struct.pack("=iIQ6Q", number, audit, 0, *arguments, *([0] * (6 - len(arguments))))
    accumulator, place = 0, 0
    while True:
        operation, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * place)
        place += 1
        if operation == 0x20:
            [accumulator] = struct.unpack_from("=I", data, operand)
        elif operation == 0x06:
            verdicts = {0x7FFF0000: ALLOWED, 0x80000000: KILLED}
            return verdicts.get(operand) or errno.errorcode[operand & 0xFFFF]
        else:
            truth = {0x15: accumulator == operand, 0x25: accumulator > operand, 0x45: bool(accumulator & operand)}
            place += if_true if truth[operation] else if_false


def verdict(machine, name, *arguments, **policy):
    architecture = ARCHITECTURES[machine]
    number = NUMBERS[name][architecture.column] if isinstance(name, str) else name
    return decide(assemble(Policy(**policy), architecture, OWN), number, arguments, architecture.audit)


@pytest.mark.parametrize("machine", [machine for machine, header in HEADERS.items() if header.exists()])
def test_the_numbers_are_those_of_the_kernels_headers(machine):
    text = HEADERS[machine].read_text()
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    assert len(numbers) > 250
    column = ARCHITECTURES[machine].column
    assert {name: pair[column] for name, pair in NUMBERS.items() if numbers.get(name) != pair[column]} == {}


@architectures
def test_calls_of_another_convention_end_the_process(machine):
    architecture = ARCHITECTURES[machine]
    assert decide(assemble(Policy(), architecture, OWN), 0, audit=0x40000003) == KILLED


@architectures
@pytest.mark.parametrize("number", [452, 462, 0x40000000, 0x40000000 + 57])
def test_calls_that_nobody_has_looked_at_do_not_exist(machine, number):
    assert verdict(machine, number) == "ENOSYS"


@architectures
@pytest.mark.parametrize("name", seccomp._NEVER)
def test_what_is_never_allowed_is_refused_under_every_policy(machine, name):
    if NUMBERS[name][ARCHITECTURES[machine].column] is None:
        pytest.skip("this machine has no such call")
    everything = {"network": True, "children": True, "foreign_signals": True}
    assert verdict(machine, name) == verdict(machine, name, **everything) == "EPERM"


@architectures
@pytest.mark.parametrize(
    ("name", "arguments", "policy", "expected"),
    [
        ("kill", (OWN, 9), {}, ALLOWED),
        ("kill", (0, 9), {}, ALLOWED),
        ("kill", (OWN + 1, 9), {}, "EPERM"),
        ("kill", (2**64 - 1, 9), {}, "EPERM"),
        ("kill", (1, 9), {"foreign_signals": True}, ALLOWED),
        ("tgkill", (OWN, 1, 6), {}, ALLOWED),
        ("tgkill", (1, 1, 6), {}, "EPERM"),
        ("tkill", (1, 9), {}, "EPERM"),
        ("rt_sigqueueinfo", (1, 9), {}, "EPERM"),
        ("clone", (CLONE_THREAD | CLONE_VM,), {}, ALLOWED),
        ("clone", (CLONE_VM,), {}, "EPERM"),
        ("clone", (17,), {"children": True}, ALLOWED),
        ("clone", (CLONE_NEWUSER | 17,), {"children": True}, "EPERM"),
        ("clone", (CLONE_NEWUSER | CLONE_THREAD,), {}, "EPERM"),
        ("clone3", (), {"children": True}, "ENOSYS"),
        ("execve", (), {}, "EPERM"),
        ("execve", (), {"children": True}, ALLOWED),
        ("socket", (2,), {}, "EACCES"),
        ("socket", (2,), {"network": True}, ALLOWED),
        ("socket", (10,), {"network": True}, ALLOWED),
        ("socket", (1,), {"network": True}, "EACCES"),
        ("socket", (17,), {"network": True}, "EACCES"),
        ("socketpair", (1,), {}, ALLOWED),
        ("socketpair", (2,), {}, "EPERM"),
        ("prctl", (1,), {}, "EPERM"),
        ("prctl", (4,), {}, "EPERM"),
        ("prctl", (15,), {}, ALLOWED),
        ("fcntl", (0, 8), {}, "EPERM"),
        ("fcntl", (0, 10), {}, "EPERM"),
        ("fcntl", (0, 3), {}, ALLOWED),
        ("ioctl", (0, 0x5412), {}, "EPERM"),
        ("ioctl", (0, 0x5401), {}, ALLOWED),
        ("prlimit64", (0,), {}, ALLOWED),
        ("prlimit64", (1,), {}, "EPERM"),
        ("openat", (), {}, ALLOWED),
        ("openat", (), {"files": False}, "EACCES"),
        ("unlinkat", (), {"files": False}, "EACCES"),
    ],
)
def test_calls_are_decided_by_their_arguments(machine, name, arguments, policy, expected):
    assert verdict(machine, name, *arguments, **policy) == expected


def test_the_upper_half_of_an_int_does_not_matter_to_the_filter_as_it_does_not_to_the_kernel():
    assert verdict("x86_64", "kill", (7 << 32) | (OWN + 1), 9) == "EPERM"
    assert verdict("x86_64", "socket", (7 << 32) | 17, network=True) == "EACCES"
