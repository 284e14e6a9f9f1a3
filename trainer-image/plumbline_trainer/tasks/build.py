"""Configuration -> task. Modules are imported late: each kind of job pulls in what it needs, pre-flight no training."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.task import InputReport, Task

_MODULES = {
    "PreferenceJob": "plumbline_trainer.tasks.preference",
    "RLVRJob": "plumbline_trainer.tasks.rlvr",
}
"""With `build`. The inputs of each, and `check_inputs`, are in a module of its own: `<module>_data`."""


def build_task(config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> Task:
    """Loads model, tokenizer and rows of the job; see `tasks.task` for what may be raised."""
    return cast(Task, import_module(_MODULES[config.kind]).build(config, ranks, stop))


def check_inputs(config: TrainerConfig) -> InputReport:
    """Refuses in seconds what `build_task` or the first steps would refuse; touches no GPU."""
    return cast(InputReport, import_module(_MODULES[config.kind] + "_data").check_inputs(config))
