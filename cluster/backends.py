"""Choose what kind of cluster to use: an existing one, kind, or plain processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Protocol

from cluster import kind
from cluster.bare import BareCluster
from cluster.paths import say

BACKENDS = ("auto", "existing", "kind", "bare")


class Cluster(Protocol):
    """What every backend can do."""

    def up(self) -> None: ...

    def down(self, *, purge: bool = False) -> None: ...

    def status(self) -> int: ...

    def load_image(self, archive: Path, name: str | None) -> None: ...

    def stop_node(self, name: str) -> None: ...

    def start_node(self, name: str) -> None: ...


class ExistingCluster:
    """Someone else's cluster: used, never changed."""

    def up(self) -> None:
        """Check that the cluster answers."""
        if self.status() != 0:
            raise RuntimeError("the cluster of KUBECONFIG does not answer")

    def down(self, *, purge: bool = False) -> None:
        """Leave it alone."""
        del purge
        say("the cluster of KUBECONFIG is not ours: left as it is")

    def status(self) -> int:
        """Ask the cluster for its readiness."""
        return subprocess.run(["kubectl", "get", "--raw", "/readyz"], check=False).returncode

    def load_image(self, archive: Path, name: str | None) -> None:
        """Refuse: there is no common way to do this."""
        raise RuntimeError(f"push {name or archive} to a registry that the cluster can reach")

    def stop_node(self, name: str) -> None:
        """Refuse to break a cluster that is not ours."""
        raise RuntimeError(f"{name} belongs to an existing cluster: not touched")

    start_node = stop_node


def choose(backend: str = "auto") -> str:
    """Return the backend to use: the environment's cluster, else Docker, else processes."""
    if backend != "auto":
        return backend
    if os.environ.get("USE_EXISTING_CLUSTER", "").lower() == "true":
        return "existing"
    return "kind" if kind.available() else "bare"


def cluster(backend: str = "auto") -> Cluster:
    """Return the cluster of a backend."""
    chosen = choose(backend)
    if chosen == "existing":
        return ExistingCluster()
    return kind.KindCluster() if chosen == "kind" else BareCluster()
