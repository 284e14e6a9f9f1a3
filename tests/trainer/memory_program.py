"""Trains as a pod does, in a process of its own, and says how much memory that took: bytes over the bare imports.

python -m tests.trainer.memory_program <job.json>
"""

from __future__ import annotations

import sys
from pathlib import Path

import peft  # noqa: F401  (imported late by the trainer; libraries are no part of the estimate)
import torch

from plumbline_trainer.modeling import reference  # noqa: F401  (imports the modeling code, as a task does)
from plumbline_trainer.run import Options, run
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks import preference  # noqa: F401
from plumbline_trainer.tasks.build import build_task


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status, such as VmHWM, the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024


def main(config: Path) -> int:
    torch.set_num_threads(1)
    torch.ones(64, 64) @ torch.ones(64, 64)
    before = resident("VmRSS")
    code = run(Options(config, False, 0, config.parent / "termination-log"), StopRequest(), build_task)
    print(resident("VmHWM") - before, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
