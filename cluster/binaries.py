"""Find the Kubernetes binaries: someone else's if offered, else our own build.

Components of one Kubernetes must have one version, so a place counts only if it
holds everything that is asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from cluster.build import KUBERNETES, build, cached_binaries

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager")
EVERYTHING = ("etcd", *KUBERNETES)


class Binaries:
    """The paths of a set of binaries."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, name: str) -> str:
        return str(self._paths[name])

    @property
    def directory(self) -> Path:
        """Where the API server was found."""
        return self._paths["kube-apiserver"].parent

    def minor_version(self) -> int:
        """Return the minor version of the API server (20 for 1.20.2)."""
        text = subprocess.run([self["kube-apiserver"], "--version"], text=True, capture_output=True, check=True).stdout
        match = re.search(r"v1\.(\d+)", text)
        if not match:
            raise RuntimeError(f"cannot read the version from: {text!r}")
        return int(match.group(1))


def find(names: tuple[str, ...]) -> Binaries | None:
    """Look in KUBEBUILDER_ASSETS, PATH and the build cache; None if nowhere complete."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for directory in (Path(assets) if assets else None, None, cached_binaries()):
        paths = {}
        for name in names:
            found = shutil.which(name, path=str(directory) if directory else None)
            if found:
                paths[name] = Path(found)
        if len(paths) == len(names):
            return Binaries(paths)
    return None


def find_or_build(names: tuple[str, ...] = EVERYTHING) -> Binaries:
    """Return the binaries, building them first if they are nowhere."""
    found = find(names)
    if found is None:
        build()
        found = find(names)
    if found is None:
        raise RuntimeError(f"incomplete build in {cached_binaries()}: remove it and build again")
    return found
