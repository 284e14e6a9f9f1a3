"""Puts Plumbline on a cluster and files on its volumes: what the demo and the end-to-end tests share."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_NAMESPACE = "plumbline-system"
LOADER = "plumbline-loader"


class CommandFailed(Exception):
    """A command ended with an error; the text holds what it printed."""


def run(*command: str, stdin: str | None = None, timeout: float = 600) -> str:
    """Runs a command in the repository's root and returns what it printed on standard output."""
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command[:6])} ... ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def tool(name: str) -> str:
    """Path of `kubectl` or `helm`, fetched once where the machine has none."""
    return run(sys.executable, str(ROOT / "charts" / "tools.py"), name).strip().splitlines()[-1]


@dataclass(frozen=True)
class Cluster:
    """A cluster that is reached through a kubeconfig."""

    kubeconfig: str
    kubectl_path: str = field(default_factory=lambda: tool("kubectl"))

    @classmethod
    def local(cls) -> Cluster:
        """The cluster that `python -m cluster up` started or chose."""
        return cls(run(sys.executable, "-m", "cluster", "kubeconfig").strip().splitlines()[-1])

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 600) -> str:
        """Runs kubectl and returns its output; raises `CommandFailed`."""
        return run(self.kubectl_path, "--kubeconfig", self.kubeconfig, *arguments, stdin=stdin, timeout=timeout)

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *manifests: dict[str, Any], namespace: str = "default") -> None:
        """Applies manifests."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(document))

    def helm(self, *arguments: str) -> str:
        """Runs helm and returns its output; raises `CommandFailed`."""
        return run(tool("helm"), "--kubeconfig", self.kubeconfig, *arguments)


def build_images() -> dict[str, Any]:
    """Builds both images if needed, makes the cluster know them, and returns the chart's values that name them."""
    builder = [sys.executable, str(ROOT / "images" / "build.py"), "all", "--load", "--print-tags"]
    return json.loads(subprocess.run(builder, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def trainer_image(images: dict[str, Any]) -> str:
    """The reference of the trainer image."""
    image = images["trainer"]["image"]
    return f"{image['repository']}:{image['tag']}"


def install_operator(cluster: Cluster, images: dict[str, Any]) -> None:
    """Installs or upgrades the chart and waits until the operator is ready."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as values:
        json.dump(images, values)
        values.flush()
        cluster.helm(
            "upgrade", "--install", "plumbline", str(ROOT / "charts" / "plumbline"), "--values", values.name,
            "--namespace", SYSTEM_NAMESPACE, "--create-namespace", "--wait", "--timeout", "180s",
        )  # fmt: skip


def wait_until(description: str, condition: Any, seconds: float, interval: float = 0.5) -> Any:
    """Polls until the condition gives something true and returns it; raises `TimeoutError` with the description."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{description}: not within {seconds:.0f} s")
        time.sleep(interval)


def _loader_manifest(claim: str, image: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": LOADER},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "loader",
                    "image": image,
                    "command": ["sleep", "3600"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
                }
            ],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }


@contextmanager
def loader_pod(cluster: Cluster, namespace: str, claim: str, image: str) -> Iterator[list[str]]:
    """A pod that has the claim mounted at /volume; gives what follows `kubectl exec` to run a program in it."""
    cluster.kubectl("delete", "pod", LOADER, "-n", namespace, "--ignore-not-found", "--wait=true")
    cluster.apply(_loader_manifest(claim, image), namespace=namespace)
    try:
        cluster.kubectl("wait", "pod", LOADER, "-n", namespace, "--for=condition=Ready", "--timeout=180s")
        yield ["-n", namespace, LOADER, "--"]
    finally:
        cluster.kubectl("delete", "pod", LOADER, "-n", namespace, "--ignore-not-found", "--wait=false")


def stage_files(cluster: Cluster, namespace: str, claim: str, folder: Path, image: str, clear: str) -> None:
    """Creates the claim if it is not there and copies the folder's content to its root, through a pod with tar.

    `clear` is a folder on the claim that is emptied first: a job continues from the checkpoints that it finds.
    """
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "5Gi"}}},
        },
        namespace=namespace,
    )
    with loader_pod(cluster, namespace, claim, image) as inside:
        # folders that the kubelet made for a job belong to it and stay; what must go is every file
        empty = (
            f'find /volume/{clear} -depth -delete 2>/dev/null; test -z "$(find /volume/{clear} -type f 2>/dev/null)"'
        )
        cluster.kubectl("exec", *inside, "sh", "-c", empty)
        # the entries, not ".": the volume's root belongs to somebody else
        entries = sorted(entry.name for entry in folder.iterdir())
        archive = subprocess.Popen(["tar", "-C", str(folder), "-chf", "-", *entries], stdout=subprocess.PIPE)
        subprocess.run(
            [cluster.kubectl_path, "--kubeconfig", cluster.kubeconfig, "exec", "-i", *inside,
             "tar", "-C", "/volume", "--no-same-owner", "-xf", "-"],
            stdin=archive.stdout,
            check=True,
        )  # fmt: skip
        if archive.wait():
            raise CommandFailed(f"tar of {folder} ended with {archive.returncode}")


def read_file(cluster: Cluster, namespace: str, claim: str, path: str, image: str) -> str:
    """The content of a text file on a claim, read through a pod."""
    with loader_pod(cluster, namespace, claim, image) as inside:
        return cluster.kubectl("exec", *inside, "cat", f"/volume/{path}")
