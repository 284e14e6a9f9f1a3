"""Whether memory that was freed is served again without the kernel, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from plumbline_trainer import host_allocator

PROGRAM = """
import resource
from plumbline_trainer.host_allocator import keep_freed_memory

kept = keep_freed_memory()
pages = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(64 * 2**20)
    del block
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, pages[-1])
"""


def faults(**environment: str) -> tuple[bool, int]:
    """Whether settings were made, and the pages that the kernel cleared for a block that was freed before."""
    path = os.pathsep.join(filter(None, sys.path))
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, pages = result.stdout.split()
    return kept == "True", int(pages)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc")
def test_freed_memory_is_served_again_without_the_kernel() -> None:
    kept, pages = faults()
    assert kept
    assert pages < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc")
@pytest.mark.parametrize("name", host_allocator._VARIABLES)
def test_settings_of_the_user_are_kept(name: str) -> None:
    kept, _ = faults(**{name: "" if name == "GLIBC_TUNABLES" else "1000000"})
    assert not kept
