"""Digests of what goes into a run, and of what comes out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePath

import fsspec

from plumbline_api.contract import TrainerPaths
from plumbline_api.status import Inputs
from plumbline_trainer.checkpoint.manifest import sha256_of
from plumbline_trainer.failures import DataError, ModelError, RewardFunctionError, TrainerFailure
from plumbline_trainer.modeling.loading import resolve_directory


def digest_inputs(paths: TrainerPaths) -> Inputs:
    """Reads every input once. Raises `ModelError`, `DataError` or `RewardFunctionError` for what is not there."""
    rewards = [file for _, file in sorted(paths.rewards.items())]
    evaluation = paths.evaluation
    training = [paths.train] if paths.train else [file for _, file in sorted(paths.mixture.items())]
    return Inputs(
        model=digest_of_directory(resolve_directory(paths.model)),
        data=_digest_of_files(training, DataError, "the training data") if training else None,
        evaluation=_digest_of_files([evaluation], DataError, "the held-out data") if evaluation else None,
        rewards=_digest_of_rewards(rewards, paths),
    )


def _digest_of_rewards(code: list[str], paths: TrainerPaths) -> str | None:
    """Code and models of the reward components; None where no component has either."""
    digest = _digest_of_files(code, RewardFunctionError, "the reward code") if code else None
    if not paths.reward_models:
        return digest
    models = [
        (name, digest_of_directory(resolve_directory(location)))
        for name, location in sorted(paths.reward_models.items())
    ]
    return combined_digest([*([("code", digest)] if digest else []), *models])


def digest_of_directory(directory: Path) -> str:
    """SHA-256 over the names and digests of all files below `directory`, hidden ones left out."""
    try:
        files = sorted(
            path
            for path in directory.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
        )
        if not files:
            raise ModelError(f"the model directory {directory} does not exist or is empty")
        return combined_digest((str(path.relative_to(directory)), sha256_of(path)) for path in files)
    except OSError as error:
        raise ModelError(f"the model directory {directory} cannot be read: {error}") from error


def combined_digest(entries: Iterable[tuple[str, str]]) -> str:
    """One digest of (name, digest) entries, in their order."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in entries)
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _digest_of_files(locations: list[str], failure: type[TrainerFailure], what: str) -> str:
    """SHA-256 of files, each a path or an fsspec URI."""
    digests = []
    for location in locations:
        try:
            with fsspec.open(location, "rb") as file:
                digests.append((PurePath(location).name, hashlib.file_digest(file, "sha256").hexdigest()))
        except (OSError, ValueError, ImportError) as error:
            raise failure(f"{what} {location} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return "sha256:" + digests[0][1] if len(digests) == 1 else combined_digest(digests)
