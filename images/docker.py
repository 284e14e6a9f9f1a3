"""Builds with Docker (BuildKit), where a daemon answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from images.commands import output, run, say
from images.description import Image


def available() -> bool:
    """Whether Docker is installed and its daemon answers."""
    if not shutil.which("docker"):
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class Docker:
    """The Docker daemon of this machine. Base image and wheels come from its registries and from the public index."""

    def has(self, name: str) -> bool:
        """Whether the daemon holds an image."""
        return output(["docker", "image", "inspect", "--format", "{{.Id}}", name]) is not None

    def build(self, image: Image, name: str, context: Path, arguments: dict[str, str]) -> None:
        """Build an image's Dockerfile."""
        command = ["docker", "build", "--progress", "plain", "--tag", name, "--file", image.dockerfile]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        say(f"{image.name}: docker build (several minutes the first time)")
        run([*command, "."], cwd=context)

    def size(self, name: str) -> str:
        """Return an image's uncompressed size as people read it."""
        size = output(["docker", "image", "inspect", "--format", "{{.Size}}", name])
        return f"{int(size) / 1e6:.0f} MB" if size else "unknown size"

    def push(self, name: str, reference: str) -> None:
        """Copy an image to a registry; only layers that it lacks travel."""
        run(["docker", "tag", name, reference])
        run(["docker", "push", "--quiet", reference])

    def save(self, name: str, reference: str, archive: Path) -> None:
        """Write an image under another name to a docker archive."""
        run(["docker", "tag", name, reference])
        run(["docker", "save", "--output", str(archive), reference])
