"""Builds with buildah: no daemon, and no registry for the base image."""

from __future__ import annotations

import json
import os
from pathlib import Path

from images.commands import cache_directory, install_packages, output, run, say
from images.description import Image


class Buildah:
    """buildah with a storage of its own in the cache."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise RuntimeError("building without Docker needs root")
        install_packages({"buildah": "buildah"})
        storage = cache_directory() / "storage"
        self._command = ["buildah", "--root", str(storage), "--runroot", str(cache_directory() / "storage-run")]
        # Working containers of a build that was killed.
        run([*self._command, "rm", "--all"])

    def has(self, name: str) -> bool:
        """Whether the storage holds an image."""
        return output([*self._command, "inspect", "--type", "image", "--format", "{{.FromImageID}}", name]) is not None

    def build(self, image: Image, name: str, context: Path, arguments: dict[str, str], wheels: Path) -> None:
        """Build an image's Dockerfile with the wheels of a folder and without an index."""
        command = [*self._command, "bud", "--layers", "--pull-never", "--format", "oci", "--tag", name]
        # No container runtime: the commands of a build are trusted, and chroot works inside of containers as well.
        command += ["--isolation", "chroot", "--build-context", f"wheels={wheels}", "--build-arg", "PIP_NO_INDEX=1"]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        run([*command, "--file", image.dockerfile, "."], on_line=lambda line: show_step(image, line), cwd=context)

    def commit_archive(self, archive: Path, name: str) -> None:
        """Make an image of one layer from a tar archive of its root."""
        container = output([*self._command, "from", "scratch"])
        if container is None:
            raise RuntimeError("buildah cannot make a container; see `buildah from scratch`")
        run([*self._command, "add", "--quiet", container, str(archive), "/"])
        run([*self._command, "config", "--cmd", "python3", container])
        run([*self._command, "commit", "--quiet", "--rm", container, name])

    def size(self, name: str) -> str:
        """Return an image's uncompressed size as people read it."""
        listed = json.loads(output([*self._command, "images", "--json", name]) or "[{}]")
        return str(listed[0].get("size", "unknown size"))

    def push(self, name: str, reference: str) -> None:
        """Copy an image to a registry; only layers that it lacks travel. Loopback registries speak plain HTTP."""
        verify = "false" if reference.startswith(("localhost:", "127.0.0.1:")) else "true"
        run([*self._command, "push", "--quiet", f"--tls-verify={verify}", name, f"docker://{reference}"])

    def save(self, name: str, reference: str, archive: Path) -> None:
        """Write an image under another name to a docker archive."""
        run([*self._command, "push", "--quiet", name, f"docker-archive:{archive}:{reference}"])


def show_step(image: Image, line: str) -> None:
    """Say which of a Dockerfile's slow steps a build is at."""
    _, step, instruction = line.partition(" STEP ")
    if step and ("RUN" in instruction or "COPY --from" in instruction):
        say(f"{image.name}: {' '.join(instruction.split())[:110]}")
