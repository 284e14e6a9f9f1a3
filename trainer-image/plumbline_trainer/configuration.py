"""The configuration of one run: from a snapshot (`TrainerConfig`), or from a job manifest with local paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plumbline_api.contract import TrainerConfig, TrainerPaths
from plumbline_api.messages import InvalidSpec, validate
from plumbline_api.preference_job import PreferenceJob, PreferenceJobSpec
from plumbline_api.rlvr_job import RLVRJob, RLVRJobSpec
from plumbline_trainer.failures import ConfigError

JOB_KINDS: dict[str, type[PreferenceJob] | type[RLVRJob]] = {"PreferenceJob": PreferenceJob, "RLVRJob": RLVRJob}

_NOT_PART_OF_THE_RUN = (
    *("runtimeRef", "runPolicy", "scheduling", "resources"),
    *("checkpoint", "output", "evaluation", "guardrails"),
)
"""Blocks of the spec that may differ between two attempts at the same run: they change no number of the training."""

_LOCATIONS = ("source", "configMap", "path")
"""Fields that say where something is; what is there enters by its digest."""


def load_config(path: Path) -> TrainerConfig:
    """Reads JSON or YAML: a snapshot, or a PreferenceJob or RLVRJob whose sources are local paths.

    Relative paths in a manifest are taken from the working directory. Without a cluster, checkpoints go to a folder
    beside the output: `<output>-checkpoints`, so that the output itself is nothing but the model.

    Raises `ConfigError` naming every field that is wrong.
    """
    document = _read(path)
    try:
        if "apiVersion" in document or (document.get("kind") in JOB_KINDS and "metadata" in document):
            return config_of_manifest(document, str(path))
        config = validate(TrainerConfig, document)
        _has_spec_of_its_kind(config)
        return config
    except InvalidSpec as invalid:
        raise ConfigError(f"{path}: {invalid}") from None


def config_of_manifest(document: Mapping[str, Any], origin: str) -> TrainerConfig:
    """The configuration of a job manifest; `origin` names it in messages. Raises `ConfigError`, `InvalidSpec`."""
    kind = document.get("kind")
    if kind not in JOB_KINDS:
        raise ConfigError(f"{origin}: kind must be one of {', '.join(JOB_KINDS)}, but it is {kind!r}")
    job: PreferenceJob | RLVRJob = validate(JOB_KINDS[kind], dict(document))
    try:
        paths = local_paths(job.spec)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return TrainerConfig(
        kind=kind,
        name=job.metadata.name,
        namespace=job.metadata.namespace or "",
        uid=job.metadata.uid or "",
        preference=job.spec if isinstance(job.spec, PreferenceJobSpec) else None,
        rlvr=job.spec if isinstance(job.spec, RLVRJobSpec) else None,
        paths=paths,
    )


def local_paths(spec: PreferenceJobSpec | RLVRJobSpec) -> TrainerPaths:
    """Where a manifest's inputs and results are on this machine. Raises `ConfigError` for what needs a cluster."""
    if spec.output.path is None:
        raise ConfigError("spec.output.path must be set to run without a cluster: it is the folder of the model")
    output = Path(spec.output.path)
    train, evaluation = spec.data.train, spec.data.evaluation
    reference = spec.reference.source if spec.reference else None
    return TrainerPaths(
        model=_local(spec.model.source, "spec.model.source"),
        reference=_local(reference, "spec.reference.source") if reference else None,
        critic=_critic(spec) if isinstance(spec, RLVRJobSpec) else None,
        train=_data_file(train, "spec.data.train"),
        mixture=_mixed_files(spec) if isinstance(spec, PreferenceJobSpec) else {},
        evaluation=_data_file(evaluation, "spec.data.evaluation"),
        rewards=_reward_files(spec) if isinstance(spec, RLVRJobSpec) else {},
        reward_models=_reward_models(spec) if isinstance(spec, RLVRJobSpec) else {},
        checkpoints=str(output.with_name(output.name + "-checkpoints")),
        output=str(output),
    )


def identity_of(config: TrainerConfig, inputs: Mapping[str, str | None]) -> dict[str, Any]:
    """What two attempts must share to be the same run: dotted field -> value, and the digests of the inputs."""
    spec = {key: value for key, value in config.spec.to_document().items() if key not in _NOT_PART_OF_THE_RUN}
    spec.get("data", {}).pop("evaluation", None)
    identity: dict[str, Any] = {"kind": config.kind, **_flatten(spec, "spec")}
    identity.update({f"inputs.{name}": digest for name, digest in inputs.items() if digest is not None})
    return identity


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error}") from None
    try:
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not one valid YAML document: {getattr(error, 'problem', error)}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: the configuration must be an object, but it is {type(document).__name__}")
    return document


def _has_spec_of_its_kind(config: TrainerConfig) -> None:
    field, other = ("preference", "rlvr") if config.kind == "PreferenceJob" else ("rlvr", "preference")
    if getattr(config, field) is None:
        raise ConfigError(f"{field}: must be set for kind {config.kind}")
    if getattr(config, other) is not None:
        raise ConfigError(f"{other}: must not be set for kind {config.kind}")


def _local(source: Any, field: str) -> str:
    """The path or URI of a one-of source. `source` is a `SourceChoice`, whose class is made at import time."""
    if source.key == "uri":
        return str(source.value.uri)
    if source.key != "path":
        raise ConfigError(f"{field}.{source.key} needs a cluster; give {field}.path to run without one")
    return str(source.value.path)


def _data_file(dataset: Any, field: str) -> str | None:
    """The file of a data set; None without one, and where a generator makes its rows."""
    return None if dataset is None or dataset.source is None else _local(dataset.source, f"{field}.source")


def _critic(spec: RLVRJobSpec) -> str | None:
    source = None if spec.critic is None else getattr(spec.critic.value, "source", None)
    return None if source is None else _local(source, "spec.critic.source")


def _mixed_files(spec: PreferenceJobSpec) -> dict[str, str]:
    return {
        part.name: _local(part.source, f"spec.data.mixture[{index}].source")
        for index, part in enumerate(spec.data.mixture or [])
    }


def _reward_files(spec: RLVRJobSpec) -> dict[str, str]:
    files = {}
    for index, reward in enumerate(spec.rewards):
        if reward.verifier.key != "python":
            continue
        field = f"spec.rewards[{index}].verifier.python"
        if reward.verifier.value.path is None:
            raise ConfigError(f"{field}.path must be set to run without a cluster: it is the file with the code")
        files[reward.name] = reward.verifier.value.path
    return files


def _reward_models(spec: RLVRJobSpec) -> dict[str, str]:
    return {
        reward.name: _local(reward.verifier.value.source, f"spec.rewards[{index}].verifier.rewardModel.source")
        for index, reward in enumerate(spec.rewards)
        if reward.verifier.key == "rewardModel"
    }


def _flatten(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, item in value.items():
            if key not in _LOCATIONS:
                flat.update(_flatten(item, f"{path}.{key}"))
        return flat
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        flat = {f"{path}.length": len(value)}
        for index, item in enumerate(value):
            flat.update(_flatten(item, f"{path}[{index}]"))
        return flat
    return {path: value}
