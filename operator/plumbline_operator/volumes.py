"""Where a job's inputs and results are mounted (pure).

A volume source is mounted read-only; results are mounted read-write, with sub-paths, so that a job sees nothing of its
neighbours on the same claim. A data *file* is reached through its folder: were the file itself the sub-path, the
kubelet would create a folder of that name when the file is missing, and the user would read about a folder.
"""

from __future__ import annotations

import posixpath
from typing import Any

from plumbline_api.contract import (
    CHECKPOINTS_PATH,
    CRITIC_PATH,
    EVALUATION_DATA_PATH,
    MODEL_PATH,
    OUTPUT_PATH,
    REFERENCE_PATH,
    REWARD_MODELS_PATH,
    REWARDS_PATH,
    TRAIN_DATA_PATH,
    TrainerPaths,
)
from plumbline_operator.model import Manifest

CHECKPOINTS_FOLDER = "checkpoints"
"""Folder of the checkpoints below the output folder, where the spec names none. The export writes beside it."""


class Mounts:
    """Volumes and mounts of the trainer container, collected while the paths are resolved."""

    def __init__(self) -> None:
        self.volumes: list[Manifest] = []
        self.mounts: list[Manifest] = []
        self._claims: dict[str, str] = {}

    def claim(self, name: str, mount_path: str, sub_path: str | None, *, read_only: bool) -> None:
        """Mounts a folder of a PersistentVolumeClaim; a claim is one volume however often it is mounted."""
        volume = self._claims.get(name)
        if volume is None:
            volume = self._claims[name] = f"claim-{len(self._claims)}"
            self.volumes.append({"name": volume, "persistentVolumeClaim": {"claimName": name}})
        mount: Manifest = {"name": volume, "mountPath": mount_path}
        if sub_path:
            mount["subPath"] = sub_path
        if read_only:
            mount["readOnly"] = True
        self.mounts.append(mount)

    def config_map(self, volume: str, name: str, key: str, mount_path: str) -> None:
        """Mounts one key of a ConfigMap as a file of the same name."""
        self.volumes.append({"name": volume, "configMap": {"name": name, "items": [{"key": key, "path": key}]}})
        self.mounts.append({"name": volume, "mountPath": mount_path, "readOnly": True})


def resolve_paths(spec: Any, job_name: str, mounts: Mounts) -> TrainerPaths:
    """Paths of the trainer for a valid spec (PreferenceJobSpec or RLVRJobSpec); mounts what they need.

    The spec must name an output volume: the API's rules for objects in a cluster have refused it otherwise.
    """
    volume = spec.output.volume
    output_folder = volume.path or job_name
    mounts.claim(volume.claim_name, OUTPUT_PATH, output_folder, read_only=False)

    checkpoint_volume = spec.checkpoint.volume
    checkpoint_claim = checkpoint_volume.claim_name if checkpoint_volume else volume.claim_name
    checkpoint_folder = (
        checkpoint_volume.path or job_name if checkpoint_volume else posixpath.join(output_folder, CHECKPOINTS_FOLDER)
    )
    mounts.claim(checkpoint_claim, CHECKPOINTS_PATH, checkpoint_folder, read_only=False)

    train, evaluation = spec.data.train, spec.data.evaluation
    reference = spec.reference.source if spec.reference else None
    return TrainerPaths(
        model=_directory(spec.model.source, MODEL_PATH, mounts),
        reference=_directory(reference, REFERENCE_PATH, mounts) if reference else None,
        critic=_critic(spec, mounts),
        train=_data_file(train, TRAIN_DATA_PATH, "data-train", mounts),
        mixture=_mixture(spec, mounts),
        evaluation=_data_file(evaluation, EVALUATION_DATA_PATH, "data-evaluation", mounts),
        rewards=_reward_code(spec, mounts),
        reward_models={
            reward.name: _directory(
                reward.verifier.value.source, posixpath.join(REWARD_MODELS_PATH, reward.name), mounts
            )
            for reward in getattr(spec, "rewards", [])
            if reward.verifier.key == "rewardModel"
        },
        checkpoints=CHECKPOINTS_PATH,
        output=OUTPUT_PATH,
        output_uri=f"pvc://{volume.claim_name}/{output_folder}",
        checkpoints_uri=f"pvc://{checkpoint_claim}/{checkpoint_folder}",
    )


def _directory(source: Any, mount_path: str, mounts: Mounts) -> str:
    if source.key == "volume":
        mounts.claim(source.value.claim_name, mount_path, source.value.path, read_only=True)
        return mount_path
    return _direct(source)


def _critic(spec: Any, mounts: Mounts) -> str | None:
    """The directory of a critic that starts from a model other than the policy's."""
    critic = getattr(spec, "critic", None)
    source = None if critic is None else getattr(critic.value, "source", None)
    return None if source is None else _directory(source, CRITIC_PATH, mounts)


def _data_file(dataset: Any, mount_path: str, volume: str, mounts: Mounts) -> str | None:
    """The file of a data set; None without one, and where a generator makes its rows: that needs no mount."""
    return None if dataset is None or dataset.source is None else _file(dataset.source, mount_path, volume, mounts)


def _file(source: Any, mount_path: str, volume: str, mounts: Mounts) -> str:
    if source.key == "volume":
        folder, name = posixpath.split(source.value.path or "")
        mounts.claim(source.value.claim_name, mount_path, folder or None, read_only=True)
        return posixpath.join(mount_path, name) if name else mount_path
    if source.key == "configMap":
        mounts.config_map(volume, source.value.name, source.value.key, mount_path)
        return posixpath.join(mount_path, source.value.key)
    return _direct(source)


def _mixture(spec: Any, mounts: Mounts) -> dict[str, str]:
    """The file of each source of the training rows, in a folder of the source's name; none where there is only one."""
    return {
        part.name: _file(part.source, posixpath.join(TRAIN_DATA_PATH, part.name), f"data-train-{part.name}", mounts)
        for part in getattr(spec.data, "mixture", None) or []
    }


def _direct(source: Any) -> str:
    """A source that the trainer opens itself: a location or a path in the image."""
    return str(source.value.uri if source.key == "uri" else source.value.path)


def _reward_code(spec: Any, mounts: Mounts) -> dict[str, str]:
    files = {}
    for index, reward in enumerate(getattr(spec, "rewards", [])):
        if reward.verifier.key != "python":
            continue
        function = reward.verifier.value
        folder = posixpath.join(REWARDS_PATH, reward.name)
        if function.config_map is None:
            files[reward.name] = function.path  # code that is baked into the image
            continue
        # Names of rewards may hold underscores, names of volumes may not.
        mounts.config_map(f"reward-{index}", function.config_map, function.file, folder)
        files[reward.name] = posixpath.join(folder, function.file)
    return files
