"""Keeps freed memory in the process instead of handing it back to the kernel between steps.

A step on the CPU allocates and frees the same large tensors as the step before. By default glibc gives each of them
a mapping of its own and unmaps it when it is freed, so that the kernel clears the same pages again in every step.
"""

from __future__ import annotations

import ctypes
import os
import sys

# parameters of mallopt, from malloc.h
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_NEVER = -1
_TOP_PAD_BYTES = 64 * 2**20
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Lets glibc serve large blocks from its heap and never shrink that; returns whether it could be told.

    The process then stays as large as it once was. A user who has tuned the allocator through its environment
    variables keeps their settings, and a C library other than glibc is left alone.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
