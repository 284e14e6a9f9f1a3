"""The manifest of a checkpoint: every file's size and SHA-256. A checkpoint counts only if all of them match."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1


class Damaged(Exception):
    """A checkpoint does not match its manifest; the text says which file and how."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of."""

    step: int
    time: datetime
    files: dict[str, tuple[int, str]]
    """Name -> (bytes, hexadecimal SHA-256)."""

    def encode(self) -> bytes:
        """The manifest's file content; its SHA-256 is the digest of the checkpoint."""
        document = {
            "formatVersion": FORMAT_VERSION,
            "step": self.step,
            "time": self.time.isoformat(),
            "files": {name: {"size": size, "sha256": digest} for name, (size, digest) in sorted(self.files.items())},
        }
        return (json.dumps(document, indent=2) + "\n").encode()

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def of_directory(cls, directory: Path, step: int, names: Iterable[str]) -> Manifest:
        """Reads back and digests the named files of `directory`."""
        files = {name: ((directory / name).stat().st_size, sha256_of(directory / name)) for name in names}
        return cls(step, datetime.now(UTC), files)

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest of a checkpoint directory. Raises `Damaged`."""
        try:
            document: dict[str, Any] = json.loads((directory / MANIFEST_NAME).read_bytes())
            if document["formatVersion"] != FORMAT_VERSION:
                raise Damaged(f"{MANIFEST_NAME} has format version {document['formatVersion']}, not {FORMAT_VERSION}")
            files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in document["files"].items()}
            return cls(int(document["step"]), datetime.fromisoformat(document["time"]), files)
        except FileNotFoundError:
            raise Damaged(f"{MANIFEST_NAME} is missing") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{MANIFEST_NAME} is malformed: {error!r}") from None

    def verify(self, directory: Path) -> None:
        """Compares every file with the manifest, sizes first. Raises `Damaged`."""
        for name, (size, _) in self.files.items():
            try:
                found = (directory / name).stat().st_size
            except FileNotFoundError:
                raise Damaged(f"{name} is missing") from None
            if found != size:
                raise Damaged(f"{name} has {found} bytes, its manifest says {size}")
        for name, (_, digest) in self.files.items():
            if sha256_of(directory / name) != digest:
                raise Damaged(f"the digest of {name} differs from its manifest")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
