"""A cluster in Docker with kind, for machines where Docker answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cluster.paths import kubeconfig_path, say

CLUSTER = "plumbline"
_CONFIG = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
- role: worker
- role: worker
"""


def available() -> bool:
    """Whether both Docker and kind can be used."""
    if not (shutil.which("docker") and shutil.which("kind")):
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class KindCluster:
    """The kind cluster called `plumbline`."""

    def exists(self) -> bool:
        """Whether kind knows the cluster."""
        listing = subprocess.run(["kind", "get", "clusters"], text=True, capture_output=True, check=False)
        return CLUSTER in listing.stdout.split()

    def up(self) -> None:
        """Create the cluster unless it is there."""
        if self.exists():
            say("already up (kind)")
        else:
            command = ["kind", "create", "cluster", "--name", CLUSTER, "--config", "-", "--wait", "120s"]
            subprocess.run(command, input=_CONFIG, text=True, check=True)
        kubeconfig_path().parent.mkdir(parents=True, exist_ok=True)
        _kind("export", "kubeconfig", "--kubeconfig", str(kubeconfig_path()))

    def down(self, *, purge: bool = False) -> None:
        """Delete the cluster; with kind, images and volumes always go with it."""
        del purge
        _kind("delete", "cluster")
        kubeconfig_path().unlink(missing_ok=True)

    def status(self) -> int:
        """Print whether the cluster is there."""
        print("kind cluster is up" if self.exists() else "no kind cluster")
        return 0 if self.exists() else 1

    def load_image(self, archive: Path, name: str | None) -> None:
        """Import an archive into all nodes; its image keeps the name it has in the archive."""
        del name
        _kind("load", "image-archive", str(archive))

    def stop_node(self, name: str) -> None:
        """Stop the container that is the node."""
        subprocess.run(["docker", "kill", _container(name)], check=True)

    def start_node(self, name: str) -> None:
        """Start the node's container again."""
        subprocess.run(["docker", "start", _container(name)], check=True)


def _container(node: str) -> str:
    return {"node1": f"{CLUSTER}-worker", "node2": f"{CLUSTER}-worker2"}.get(node, node)


def _kind(*arguments: str) -> None:
    subprocess.run(["kind", *arguments, "--name", CLUSTER], check=True)
