"""A claim of the local cluster whose file system is small and can be filled without harm to the machine.

The cluster's volumes are directories of this machine, seen by each node in a mount namespace of its own. A file with an
ext4 file system is mounted over the claim's directory in all of them: one file system, seen everywhere.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from cluster.bare import BareCluster
from scripts.deployment import Cluster, wait_until

_FILLER = "filler"


class LimitedVolume:
    """The claim `name` in `namespace`, `megabytes` large. A context manager; enter it before a pod mounts the claim."""

    def __init__(self, cluster: Cluster, bare: BareCluster, namespace: str, name: str, megabytes: int) -> None:
        self._cluster, self._bare = cluster, bare
        self._namespace, self.name, self._megabytes = namespace, name, megabytes
        self.directory = Path()
        """Where this machine sees the volume."""

        self._image = Path()
        self._device = ""

    def __enter__(self) -> LimitedVolume:
        self._cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": self.name},
                "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
            },
            namespace=self._namespace,
        )
        volume = wait_until(f"the claim {self.name} to be bound", self._volume_name, 60)
        self.directory = Path(self._cluster.get("pv", volume)["spec"]["hostPath"]["path"])
        self._image = self._bare.directory / f"{volume}.ext4"
        with self._image.open("wb") as file:
            file.truncate(self._megabytes * 2**20)
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        self._device = _run("losetup", "--find", "--show", str(self._image)).strip()
        for inside in self._namespaces():
            _run(*inside, "mount", self._device, str(self.directory))
        self.directory.chmod(0o777)
        return self

    def __exit__(self, *_: object) -> None:
        for inside in self._namespaces():
            with contextlib.suppress(subprocess.CalledProcessError):  # a node whose runtime ended took its mounts along
                _run(*inside, "umount", "--lazy", str(self.directory))
        _run("losetup", "--detach", self._device)
        self._image.unlink()

    def fill(self) -> int:
        """Takes all space that is left; returns how many bytes that was."""
        written = 0
        with (self.directory / _FILLER).open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (2**20, 2**12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        written += file.write(bytes(size))
            os.fsync(file.fileno())
        return written

    def free(self) -> None:
        """Gives the space back."""
        (self.directory / _FILLER).unlink(missing_ok=True)

    def _volume_name(self) -> str:
        return self._cluster.get("pvc", self.name, "-n", self._namespace)["spec"].get("volumeName", "")

    def _namespaces(self) -> list[list[str]]:
        """How a command enters each mount namespace that must see the volume: this machine's own, and the nodes'."""
        runtimes = [self._bare.processes.record(node.containerd) for node in self._bare.nodes]
        entered = [["nsenter", f"--mount=/proc/{record.pid}/ns/mnt", "--"] for record in runtimes if record]
        return [[], *entered]


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
