"""One rank of an RLVR job's first steps: what `test_rlvr` compares between one rank and two."""

from __future__ import annotations

import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import join
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.rlvr import build
from tests.trainer.toy_program import FORKING


def start_rank(config: Path, rank: int, *, steps: int = 1, **variables: str) -> BaseProcess:
    """A process that leaves the gradient of `steps` steps, summed over ranks, and the task's state in `<rank>.pt`.

    The file lies beside `config`; the parameters stay as they are.
    """
    process = FORKING.Process(target=_steps, args=(config, {"RANK": str(rank), **variables}, steps))
    process.start()
    return process


def _steps(config: Path, variables: dict[str, str], steps: int) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", **variables})
    torch.set_num_threads(1)
    stop = StopRequest()
    ranks = join(stop)
    task = build(TrainerConfig.model_validate_json(config.read_text()), ranks, stop)
    for step in range(steps):
        for micro_batch in task.prepare(step).micro_batches:
            task.loss(micro_batch)[0].backward()
        if step + 1 < steps:
            task.step_done(step)
    parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    ranks.sum_gradients(parameters)
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    torch.save({"gradient": gradient, "state": task.state_dict()}, config.with_name(f"{ranks.rank}.pt"))
    task.close()
    ranks.close()
    sys.exit(0)
