"""Configuration -> task. The kinds' modules are imported late: each pulls in only what its kind needs."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import cast

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.task import InputReport, Task

_MODULES = {
    "PreferenceJob": "plumbline_trainer.tasks.preference",
    "RLVRJob": "plumbline_trainer.tasks.rlvr",
}


def build_task(config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> Task:
    """Loads model, tokenizer and rows of the job; see `tasks.task` for what may be raised."""
    return cast(Task, _module_of(config).build(config, ranks, stop))


def check_inputs(config: TrainerConfig) -> InputReport:
    """Refuses in seconds what `build_task` or the first steps would refuse; touches no GPU."""
    return cast(InputReport, _module_of(config).check_inputs(config))


def _module_of(config: TrainerConfig) -> ModuleType:
    return import_module(_MODULES[config.kind])
