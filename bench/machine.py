"""What a result must be read with: the machine, the versions, the commit, and how busy the machine was."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Flags of /proc/cpuinfo that decide how fast matrices are multiplied, on x86 and Arm."""


@dataclass(frozen=True)
class Machine:
    """The processor and memory that was measured on."""

    processor: str
    cores: int
    instruction_sets: list[str]
    memory_bytes: int
    system: str

    def __str__(self) -> str:
        gigabytes = self.memory_bytes / 2**30
        sets = ", ".join(self.instruction_sets) or "no vector instructions known"
        return f"{self.processor}, {self.cores} cores ({sets}), {gigabytes:.0f} GiB, {self.system}"


def describe_machine() -> Machine:
    """This machine."""
    fields = _first_processor(Path("/proc/cpuinfo").read_text())
    family = f"family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    name = " ".join(part for part in (fields.get("model name", platform.machine()), family) if part)
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return Machine(
        name,
        len(os.sched_getaffinity(0)),
        [flag for flag in INSTRUCTION_SETS if flag in flags],
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        platform.platform(),
    )


def load_average() -> float:
    """Processes that wanted to run, over the last minute; above 0.5 before a run, something else is running."""
    return round(os.getloadavg()[0], 2)


def commit() -> str:
    """The commit of the working tree, with a mark where tracked files differ from it."""
    description = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return description.stdout.strip() or "unknown"


def installed(package: str) -> str:
    """Version of an installed package."""
    return metadata.version(package)


def _first_processor(cpuinfo: str) -> dict[str, str]:
    lines = cpuinfo.split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
