"""Everything that can be refused before a GPU is held, in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.rollout_engine import NoSync, Vllm
from plumbline_trainer.export import RECORD_NAME
from plumbline_trainer.failures import ConfigError, InfrastructureError, ModelError
from plumbline_trainer.memory import MemoryEstimate, estimate, host_limit
from plumbline_trainer.modeling.loading import check_directory, load_configuration, resolve_directory, select_dtype
from plumbline_trainer.tasks.build import check_inputs
from plumbline_trainer.tasks.rlvr_data import uses_reference
from plumbline_trainer.tasks.task import InputReport


def preflight(config: TrainerConfig) -> InputReport:
    """Checks model, data, reward code, folders and memory; touches no GPU.

    Raises `ModelError`, `DataError`, `RewardFunctionError` or `ConfigError` for what cannot work; what may work comes
    back as warnings.
    """
    directory = resolve_directory(config.paths.model)
    check_directory(directory)
    if config.paths.reference is not None:
        check_directory(resolve_directory(config.paths.reference))
    _check_folder(config.paths.output, "output")
    _check_folder(config.paths.checkpoints, "checkpoints")
    if config.rlvr is not None and isinstance(config.rlvr.rollout.engine.value, Vllm):
        _check_rollout_server(config.rlvr.rollout.engine.value)
    report = check_inputs(config)
    warnings = [*report.warnings, *_foreign_model(Path(config.paths.output)), *_check_memory(config, directory)]
    return dataclasses.replace(report, warnings=warnings)


def _check_folder(location: str, what: str) -> None:
    """Makes the folder and tries to write there: a read-only volume should not be found out at the first save."""
    folder = Path(location)
    probe = folder / ".plumbline-preflight"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except NotADirectoryError:
        raise ConfigError(f"the folder for {what}, {location}, is or passes through a file") from None
    except FileExistsError:
        raise ConfigError(f"the folder for {what}, {location}, is a file") from None
    except OSError as error:
        raise InfrastructureError(f"the folder for {what}, {location}, cannot be written: {error.strerror}") from None


def _check_rollout_server(engine: Vllm) -> None:
    """Checks what concerns this side: the key in the environment, and the folder that weights go through.

    The server is not asked before the job starts: it may be started together with the job, and a wait for it belongs to
    the attempts of the job, which come back after a pause.
    """
    from plumbline_trainer.rollout.vllm_server import Server  # loaded for jobs that have one

    Server(engine)
    sync = engine.weight_sync.value
    if not isinstance(sync, NoSync):
        _check_folder(sync.directory, "weights for the rollout server")


def _foreign_model(output: Path) -> list[str]:
    if (output / "config.json").exists() and not (output / RECORD_NAME).exists():
        return [f"{output} holds a model that no job wrote; files of the same name will be replaced, others will stay"]
    return []


def _check_memory(config: TrainerConfig, directory: Path) -> list[str]:
    """Compares the estimate with this machine. Where the job uses GPUs, their memory is not known here."""
    limit = host_limit()
    if limit is None or config.spec.resources.gpus:
        return []
    needed = _needed(config, directory)
    if needed is None:
        return []
    if needed.state > limit:
        raise ModelError(
            f"training this model needs about {needed.describe()} and only {limit / 2**30:.1f} GiB are there; "
            "use peft.lora, a smaller model or more memory"
        )
    if needed.total > limit:
        return [
            f"training may need {needed.describe()} with rows of full length, and {limit / 2**30:.1f} GiB are "
            "there; lower the token limits or training.microBatchSize, or set training.activationCheckpointing"
        ]
    return []


def _needed(config: TrainerConfig, directory: Path) -> MemoryEstimate | None:
    spec = config.spec
    try:
        dtype = select_dtype(spec.model.dtype, torch.device("cpu"))
        return estimate(load_configuration(directory), spec, dtype, copies=models_held(config))
    except (ValueError, AttributeError):
        # an estimate is a courtesy: an architecture it does not know is no reason to refuse the job
        return None


def models_held(config: TrainerConfig) -> int:
    """2 where a frozen reference stays beside the policy; an adapter that is switched off needs none of its own."""
    spec = config.spec
    if config.rlvr is not None and not uses_reference(config.rlvr):
        return 1
    if config.rlvr is not None and spec.peft is None:
        return 2
    return 2 if config.paths.reference else 1
