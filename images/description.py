"""What the images are made of, and the tags that follow from it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Image:
    """One image of the product. Paths are relative to the root of the repository, the context of the build."""

    name: str
    folder: str
    packages: tuple[str, ...]

    @property
    def dockerfile(self) -> str:
        return f"{self.folder}/Dockerfile"

    @property
    def requirements(self) -> tuple[str, ...]:
        """The files that name every distribution that a build installs."""
        return (f"requirements/{self.name}.txt", "requirements/build.txt")

    def inputs(self, root: Path = ROOT) -> Iterator[Path]:
        """Yield every file that has a part in the image, in a fixed order."""
        shared = (".dockerignore", "images/prune.sh", "pyproject.toml", "README.md")
        for file in (self.dockerfile, *shared, *self.requirements):
            yield root / file
        for package in self.packages:
            for path in sorted((root / package).rglob("*")):
                if path.is_file() and path.suffix != ".pyc":
                    yield path

    def tag(self, arguments: dict[str, str], root: Path = ROOT) -> str:
        """Return a tag that changes whenever a file or a build argument does, so that no node runs a stale image."""
        digest = hashlib.sha256(repr(sorted(arguments.items())).encode())
        for path in self.inputs(root):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root)} {content}\n".encode())
        return f"dev-{digest.hexdigest()[:12]}"

    def copy_context(self, target: Path, root: Path = ROOT) -> None:
        """Copy the inputs to a folder: a build of minutes must not see files that are edited meanwhile."""
        shutil.rmtree(target, ignore_errors=True)
        for path in self.inputs(root):
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


IMAGES = {
    "operator": Image("operator", "operator", ("crds/plumbline_api", "operator/plumbline_operator")),
    "trainer": Image("trainer", "trainer-image", ("crds/plumbline_api", "trainer-image/plumbline_trainer")),
}
