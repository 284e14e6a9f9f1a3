"""What the last lines of a log say about a failure that nothing else explains (pure).

The trainer names the causes it knows by its exit code and its last words. Libraries below it abort the process without
asking, such as NCCL's watchdog, and other images know no last words at all: then the log has the cause, in words that
these patterns know. Each is the text of the library that prints it; the newest line counts that one of them matches,
because what ended the process is the last thing that it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from plumbline_api.conditions import Reason

LINES_READ = 60
LONGEST_LINE = 400
"""Characters of a line that are shown."""


@dataclass(frozen=True)
class Sign:
    """Words in a log, and what they mean."""

    reason: Reason
    pattern: re.Pattern[str]
    meaning: str


def _sign(reason: Reason, meaning: str, *patterns: str) -> Sign:
    return Sign(reason, re.compile("|".join(patterns)), meaning)


SIGNS: tuple[Sign, ...] = (
    _sign(
        Reason.GPU_ERROR,
        "the GPU or its driver failed",
        r"uncorrectable (?:NVLink|ECC) error",
        r"CUDA error: (?:hardware stack error|the launch timed out|CUDA-capable device\(s\) is/are busy)",
        r"GPU has fallen off the bus",
        r"Unable to determine the device handle for GPU.*: GPU is lost",
        r"NVRM: Xid",
        r"CUDA driver (?:initialization failed|version is insufficient)",
    ),
    _sign(
        Reason.GPU_OUT_OF_MEMORY,
        "GPU memory is exhausted",
        r"(?:CUDA|HIP) out of memory",
        r"CUDA error: out of memory",
        r"OutOfMemoryError: (?:CUDA|HIP|Allocation)",
        r"CUBLAS_STATUS_ALLOC_FAILED",
        r"Cuda failure \d* ?'out of memory'",
    ),
    _sign(
        Reason.DISK_FULL,
        "a volume is full",
        r"No space left on device",
        r"Disk quota exceeded",
        r"\[Errno (?:28|122)\]",
    ),
    _sign(
        Reason.HOST_OUT_OF_MEMORY,
        "host memory is exhausted",
        r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
        r"std::bad_alloc",
        r"^MemoryError\b",
        r"Cannot allocate memory",
        r"insufficient shared memory \(shm\)",
        r"unable to allocate shared memory\(shm\)",
    ),
    _sign(
        Reason.COLLECTIVE_TIMEOUT,
        "the ranks waited too long for one of them",
        r"Watchdog caught collective operation timeout",
        r"ran for \d+ milliseconds before timing out",
        r"Timed out waiting \d+ ?ms for (?:recv|send) operation",
        r"DistStoreError.*[Tt]imed out",
        r"wait timeout after \d+ ?ms",
    ),
    _sign(
        Reason.LOST_PEER,
        "the connection to another rank broke",
        r"Connection closed by (?:remote )?peer",
        r"Connection reset by (?:remote )?peer",
        r"ncclRemoteError",
        r"remote process exited or there was a network error",
    ),
    _sign(
        Reason.DIVERGED,
        "the run met numbers that are not finite",
        r"probability tensor contains either `inf`, `nan` or element < 0",
        r"returned nan values in its \d+th output",
    ),
)
"""Among signs in the same line the first is right: a GPU that fails breaks connections, and not the other way round."""


def sign_in_log(log: str) -> tuple[Sign, str] | None:
    """The sign in the newest line that has one, with that line; None where no line is known."""
    for line in reversed(log.splitlines()[-LINES_READ:]):
        for sign in SIGNS:
            if sign.pattern.search(line):
                return sign, line.strip()[:LONGEST_LINE]
    return None
