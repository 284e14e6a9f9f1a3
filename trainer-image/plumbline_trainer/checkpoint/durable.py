"""Writes that survive a crash: data reaches the disk before the name that makes it count."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from plumbline_trainer.failures import DiskFull, InfrastructureError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def flush_tree(directory: Path) -> None:
    """Flushes every file and folder below `directory`, and itself."""
    for folder, _, names in os.walk(directory):
        for name in names:
            flush(Path(folder) / name)
        flush(Path(folder))


def flush(path: Path) -> None:
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def equalize_permissions(directory: Path, pattern: Path) -> None:
    """Gives the files of `directory` the permissions of `pattern`, an ordinary one among them: safetensors writes its
    files for their owner alone, and who reads a volume is for its owner to decide."""
    mode = pattern.stat().st_mode & 0o777
    for path in directory.iterdir():
        if path.is_file():
            path.chmod(mode)


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turns a full or failing volume into the failure that says so; `doing` starts the sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _errno_in(str(error))
        if number in _FULL:
            raise DiskFull(f"{doing}: the volume is full ({error})") from error
        raise InfrastructureError(f"{doing}: {error}") from error


def _errno_in(text: str) -> int | None:
    """safetensors reports the operating system's error as text: `No space left on device (os error 28)`."""
    for number in _FULL:
        if f"os error {number})" in text:
            return number
    return None


def remove_tree(directory: Path) -> None:
    """Deletes a folder in one visible step: it loses its name first, so that no half of it is ever found."""
    doomed = directory.with_name(f".{directory.name}.deleted")
    if doomed.exists():
        shutil.rmtree(doomed)
    directory.rename(doomed)
    shutil.rmtree(doomed)
