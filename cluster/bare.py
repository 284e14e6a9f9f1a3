"""The cluster of plain processes: bring it up, look at it, take it down.

    control plane   etcd, kube-apiserver, kube-controller-manager, kube-scheduler
    two nodes       containerd + kubelet each (node.py)
    shared          kube-proxy, a registry on loopback

Everything lives below one directory. `up` on anything but a healthy cluster
first does what `down` does, so a crash at any moment needs no repair by hand.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from cluster import cgroups, network, packages, registry, storage
from cluster.api import ApiError
from cluster.archive_image import write_basic_images
from cluster.binaries import Binaries, find, find_or_build
from cluster.control_plane import ControlPlane, Extra, Serving, wait_until
from cluster.host_state import HostState
from cluster.node import Node
from cluster.paths import kubeconfig_path, say, state_directory
from cluster.processes import marked_processes

_PORT = 6443
_PROXY = "kube-proxy"
# Data that is expensive to make again; only `down --purge` removes it.
_KEPT = ("registry", "images", "volumes", *(f"{name}/containerd" for name in network.NODE_ADDRESSES))
# Notice a dead node in seconds, as the chaos tests want to see what follows.
_CONTROLLER_FLAGS = [
    "--enable-hostpath-provisioner=true",
    # Not 1: a node that was the first to be seen unready would never be tainted. In the 1.20
    # controller, the limiter that stands for "no evictions" also says its rate is 1, so it
    # is not replaced when evictions are allowed again.
    "--node-eviction-rate=2",
    "--node-monitor-grace-period=12s",
    "--node-monitor-period=2s",
]


class BareCluster:
    """The cluster in `state_directory()`."""

    def __init__(self) -> None:
        first = next(iter(network.NODE_ADDRESSES.values()))
        self.directory = state_directory()
        self.plane = ControlPlane(
            self.directory,
            scheduler=True,
            serving=Serving(address=first, port=_PORT, detached=True),
            extra=Extra(controller_manager=list(_CONTROLLER_FLAGS)),
        )
        self.plane.server = f"https://{first}:{_PORT}"
        self.processes = self.plane.processes
        self.nodes = [Node(name, self.processes) for name in network.NODE_ADDRESSES]
        self._host = HostState(self.directory / "host-before.json")

    def up(self) -> None:
        """Bring the cluster up; nothing to do if it is healthy."""
        _require_root()
        if not self.problems():
            say(f"already up: {kubeconfig_path()}")
            return
        packages.install_missing()
        binaries = find_or_build()
        if self.traces():
            say("cleaning up after an earlier cluster")
            self.down()
        say("starting")
        try:
            self._start(binaries)
        except BaseException:
            say("failed; taking down what was started (logs are kept)")
            self.down()
            raise
        say(f"up: {', '.join(node.name for node in self.nodes)} ready; KUBECONFIG={kubeconfig_path()}")

    def _start(self, binaries: Binaries) -> None:
        shutil.rmtree(self.directory / "log", ignore_errors=True)
        self._host.save()
        network.create()
        storage.mount_volumes(self.directory / "volumes")
        # The runtimes and the registry need nothing of the control plane: they start
        # while it does.
        for node in self.nodes:
            node.start_containerd()
        registry.start(self.processes)
        self.plane.start()
        say("control plane ready")
        self._load_basic_images()
        minor = binaries.minor_version()
        for node in self.nodes:
            node.start_kubelet(binaries["kubelet"], self.plane.server, self.plane.authority, minor)
        self._start_proxy(binaries)
        storage.create_class(self.plane.api())
        wait_until(registry.ready, "the registry", 30, self._check_processes)
        wait_until(self._nodes_ready, "the nodes", 120, self._check_processes)

    def _load_basic_images(self) -> None:
        archives = write_basic_images(self.directory / "images")
        for node in self.nodes:
            node.wait_for_containerd()
            for archive in archives:
                node.load_image(archive)

    def _start_proxy(self, binaries: Binaries) -> None:
        kubeconfig = self.plane.authority.kubeconfig(_PROXY, f"/CN=system:{_PROXY}", self.plane.server)
        config = network.write_json(
            self.directory / "kube-proxy.json",
            network.proxy_config(kubeconfig, self.nodes[0].name),
        )
        self.processes.start(_PROXY, [binaries[_PROXY], f"--config={config}"])

    def down(self, *, purge: bool = False) -> None:
        """Stop everything, undo every change to the machine, remove the cluster's objects."""
        _require_root()
        self.processes.stop_all(grace=0)
        cgroups.remove()
        storage.unmount_volumes()
        network.remove()
        self._host.restore()
        self._remove_files(purge)

    def _remove_files(self, purge: bool) -> None:
        if not self.directory.exists():
            return
        if purge:
            shutil.rmtree(self.directory)
            return
        keep = {self.directory / name for name in (*_KEPT, "log")}
        parents = {path.parent for path in keep} - {self.directory}
        for entry in [*self.directory.iterdir(), *(e for p in parents if p.is_dir() for e in p.iterdir())]:
            if entry in keep or entry in parents:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def traces(self) -> bool:
        """Whether anything of an earlier run is still there, running or not."""
        return (
            self._host.saved
            or kubeconfig_path().exists()
            or bool(marked_processes(self.directory))
            or any(Path("/sys/class/net", link).exists() for link in (network.NODE_LINK, network.POD_LINK))
        )

    def problems(self) -> list[str]:
        """Return what keeps the cluster from being healthy; empty if nothing does."""
        if not kubeconfig_path().exists():
            return ["no cluster is up"]
        found = [f"{name} does not run" for name in self._expected() if not self.processes.alive(name)]
        if not self.plane.api().ready():
            found.append("the API server is not ready")
        elif not found and not self._nodes_ready():
            found.append("not all nodes are ready")
        if not found and not registry.ready():
            found.append("the registry does not answer")
        return found

    def status(self) -> int:
        """Print every process and node; 0 if the cluster is healthy."""
        for name in self._expected():
            record = self.processes.record(name)
            state = f"pid {record.pid}" if record and record.alive(self.directory) else "not running"
            print(f"{name:<26} {state}")
        problems = self.problems()
        if not problems or (self.plane.authority.certificate.exists() and self.plane.api().ready()):
            for item in self._node_list():
                ready = "Ready" if _is_ready(item) else "NotReady"
                print(f"{item['metadata']['name']:<26} {ready}")
        print("; ".join(problems) or f"healthy, KUBECONFIG={kubeconfig_path()}")
        return 1 if problems else 0

    def stop_node(self, name: str) -> None:
        """Kill the kubelet of one node."""
        self._node(name).stop_kubelet()
        say(f"{name}: kubelet killed")

    def start_node(self, name: str) -> None:
        """Start the kubelet of a node again and wait until the node is ready."""
        binaries = find(("etcd", "kube-apiserver", "kubelet"))
        if binaries is None:
            raise RuntimeError("the binaries are gone: run `build`")
        node = self._node(name)
        if self.processes.alive(node.kubelet):
            say(f"{name}: kubelet already runs")
            return
        node.start_kubelet(binaries["kubelet"], self.plane.server, self.plane.authority, binaries.minor_version())
        wait_until(lambda: self._ready_names() >= {name}, name, 60)
        say(f"{name}: ready")

    def load_image(self, archive: Path, name: str | None) -> None:
        """Import an image archive into both nodes."""
        for node in self.nodes:
            if node.load_image(archive, name):
                say(f"{node.name}: loaded {name or archive.name}")
            else:
                say(f"{node.name}: has {name or archive.name} already")

    def _node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise RuntimeError(f"no node {name}; there are {', '.join(network.NODE_ADDRESSES)}")

    def _expected(self) -> list[str]:
        control = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        nodes = [name for node in self.nodes for name in (node.containerd, node.kubelet)]
        return [*control, *nodes, _PROXY, registry.NAME]

    def _node_list(self) -> list[dict[str, Any]]:
        return list(self.plane.api().get("/api/v1/nodes")["items"])

    def _ready_names(self) -> set[str]:
        try:
            items = self._node_list()
        except (ApiError, OSError):
            return set()
        return {item["metadata"]["name"] for item in items if _is_ready(item)}

    def _nodes_ready(self) -> bool:
        return self._ready_names() >= set(network.NODE_ADDRESSES)

    def _check_processes(self) -> None:
        for record in self.processes.records():
            if not record.alive(self.directory):
                tail = self.processes.log_tail(record.name)
                raise RuntimeError(f"{record.name} ended while starting:\n{tail}")


def _is_ready(item: dict[str, Any]) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _require_root() -> None:
    if os.uname().sysname != "Linux" or os.geteuid() != 0:
        raise RuntimeError("a cluster of plain processes needs root on Linux; or start Docker")
