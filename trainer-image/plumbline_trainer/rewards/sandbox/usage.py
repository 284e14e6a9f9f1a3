"""What sandboxed processes use that the kernel does not limit by itself, and the removal of what they leave."""

from __future__ import annotations

import os
import resource
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

ENTRY_BYTES = 4096
"""Counted for each file and directory besides its content, so that empty ones are not free."""

_PROCESS_GROUP, _THREADS, _RESIDENT_PAGES = 2, 17, 21
"""Fields of /proc/<pid>/stat after the name."""


@dataclass(frozen=True)
class GroupUsage:
    """A process group at one moment."""

    processes: int
    threads: int
    memory_bytes: int


def group_usage(group: int, *, children: bool) -> GroupUsage:
    """What the processes of a group use now. Without `children` the leader is all there is to look at."""
    processes = threads = pages = 0
    names = (entry.name for entry in os.scandir("/proc") if entry.name.isdigit()) if children else (str(group),)
    for name in names:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path("/proc", name, "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[_PROCESS_GROUP]) == group and fields[0] != "Z":
                processes += 1
                threads += int(fields[_THREADS])
                pages += int(fields[_RESIDENT_PAGES])
    return GroupUsage(processes, threads, pages * resource.getpagesize())


def directory_bytes(directory: Path, enough: int) -> int:
    """Bytes on disk below a directory. Counting ends once there are more than `enough`.

    A tree that cannot be walked, because it is too deep for a path or closed to its reader, counts as more than that.
    """
    total, waiting = 0, [os.fspath(directory)]
    while waiting and total <= enough:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    total += ENTRY_BYTES + status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(entry.path)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:
            return enough + 1
    return total


def remove_tree(directory: Path) -> None:
    """Removes a directory of any depth, whatever the modes in it; links are removed, never followed.

    Subdirectories are moved up until none is left, so that no path gets longer than two names. Nobody may be using the
    directory any more.
    """
    names = (f".moved-{number}" for number in count())
    directory.chmod(0o700)
    while children := _remove_files(directory):
        for child in children:
            child.chmod(0o700)
            for grandchild in _remove_files(child):
                grandchild.chmod(0o700)  # its entry for the parent changes
                grandchild.rename(next(name for name in map(directory.joinpath, names) if not os.path.lexists(name)))
            child.rmdir()
    directory.rmdir()


def _remove_files(directory: Path) -> list[Path]:
    """Removes what is no directory; returns the directories."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(Path(entry.path))
            else:
                os.unlink(entry.path)  # noqa: PTH108  (no Path for each of many)
    return directories
