"""Volumes: a default StorageClass on the host-path provisioner of the controller manager.

The provisioner always makes its directories below /tmp/hostpath_pv. A directory
of the cluster is bind-mounted there, so the data is found, kept and purged with
the rest. As both nodes are on this machine, a claim can be mounted on both,
whatever its access mode says.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster.api import Api

PROVISIONER_DIRECTORY = Path("/tmp/hostpath_pv")
CLASS_NAME = "standard"


def mount_volumes(directory: Path) -> None:
    """Put the cluster's volume directory where the provisioner works."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    PROVISIONER_DIRECTORY.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(directory), str(PROVISIONER_DIRECTORY)], check=True)


def unmount_volumes() -> None:
    """Undo `mount_volumes`, however often it was done."""
    while str(PROVISIONER_DIRECTORY) in _mount_points():
        subprocess.run(["umount", "--lazy", str(PROVISIONER_DIRECTORY)], check=True)


def create_class(api: Api) -> None:
    """Make the default StorageClass."""
    api.create(
        "/apis/storage.k8s.io/v1/storageclasses",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": CLASS_NAME,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/host-path",
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
        },
    )


def _mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines]
