"""One node: a containerd and a kubelet in a mount namespace of their own.

Two nodes on one machine would fight over paths that are fixed in the code of
the kubelet, containerd and the CNI plugins: each kubelet deletes the other's
pod logs from /var/log/pods, for one. In its namespace, every node sees its own
directories at these places. And whatever it mounts is gone with its last
process, so there is nothing to unmount after a crash.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from cluster import cgroups, network
from cluster.archive_image import PAUSE_IMAGE, image_id
from cluster.control_plane import wait_until
from cluster.pki import Authority
from cluster.processes import Processes

_NAMESPACE = "k8s.io"  # where the kubelet's containers and images live
# place on the machine -> directory of the node that covers it
_COVERED = {
    "/var/log/pods": "pod-logs",
    "/var/log/containers": "container-logs",
    "/var/lib/kubelet": "kubelet",
    "/var/lib/cni": "cni-state",
    "/run/netns": "netns",
    "/run/containerd": "containerd-run",
}


class Node:
    """A worker node called `name`, with its files below `<cluster>/<name>`."""

    def __init__(self, name: str, processes: Processes) -> None:
        self.name = name
        self.processes = processes
        self.directory = processes.directory / name
        self.address = network.NODE_ADDRESSES[name]
        self.containerd = f"{name}-containerd"
        self.kubelet = f"{name}-kubelet"
        self._socket = self.directory / "containerd.sock"

    def start_containerd(self, containerd: str = "containerd") -> None:
        """Start the container runtime in a new mount namespace."""
        for name in _COVERED.values():
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        network.write_json(
            self.directory / "cni/10-plumbline.conflist",
            network.plugin_config(self.name, self.directory / "cni-state/addresses"),
        )
        config = self.directory / "containerd.toml"
        config.write_text(self._containerd_config())
        binds = "".join(f"mount --bind '{self.directory / ours}' {place}\n" for place, ours in _COVERED.items())
        script = f"set -e\n{binds}exec {containerd} --config '{config}'\n"
        self.processes.start(
            self.containerd,
            ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script],
        )

    def wait_for_containerd(self) -> None:
        """Return when the runtime answers, and without containers of an earlier run."""
        wait_until(self._runtime_ready, self.containerd, 30, self._check_containerd)
        leftovers = self._ctr("containers", "ls", "-q").split()
        if leftovers:
            self._ctr("containers", "rm", *leftovers)
            # The CRI plugin read them at start and only forgets them by a new start.
            self.processes.stop(self.containerd)
            self.start_containerd()
            wait_until(self._runtime_ready, self.containerd, 30, self._check_containerd)

    def start_kubelet(self, binary: str, server: str, authority: Authority, minor: int) -> None:
        """Start the kubelet beside its containerd; also after it was stopped alone."""
        runtime = self.processes.record(self.containerd)
        if runtime is None:
            raise RuntimeError(f"{self.containerd} does not run")
        certificate, key = authority.sign(
            f"{self.name}-serving",
            f"/CN={self.name}",
            [f"DNS:{self.name}", f"IP:{self.address}"],
        )
        subject = f"/O=system:nodes/CN=system:node:{self.name}"
        kubeconfig = authority.kubeconfig(self.name, subject, server)
        settings = self._kubelet_config(certificate, key, authority)
        config = network.write_json(self.directory / "kubelet.json", settings)
        flags = [
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            f"--container-runtime-endpoint=unix://{self._socket}",
        ]
        if minor < 24:
            flags.append("--container-runtime=remote")
        self.processes.start(
            self.kubelet,
            ["nsenter", f"--mount=/proc/{runtime.pid}/ns/mnt", "--", binary, *flags],
        )

    def stop_kubelet(self) -> None:
        """Kill the kubelet as a crash would; its pods keep running."""
        self.processes.stop(self.kubelet, hard=True)

    def load_image(self, archive: Path, name: str | None = None) -> bool:
        """Import an archive, also under `name`; False if the same image is there already."""
        identity = image_id(archive)
        known = self._ctr("images", "ls", "-q").split()
        full_name = normalised(name) if name else None
        if identity in known and (full_name is None or self._names(full_name, identity, known)):
            return False
        names = ["--index-name", full_name] if full_name else []
        self._ctr("images", "import", *names, str(archive))
        return True

    def remove_image(self, name: str) -> None:
        """Remove an image's name; its data goes with the last name."""
        self._ctr("images", "rm", normalised(name))

    def _names(self, name: str, identity: str, known: list[str]) -> bool:
        """Whether an image name stands for the image with this id."""
        if name not in known:
            return False
        digests = {
            fields[0]: fields[2]
            for line in self._ctr("images", "ls").splitlines()[1:]
            if len(fields := line.split()) > 2
        }
        if digests.get(name) == digests.get(identity):
            return True
        # A name given at import stands for an index that holds the image's manifest.
        return digests.get(identity, "-") in self._ctr("content", "get", digests[name])

    def _runtime_ready(self) -> bool:
        if not self._socket.exists():
            return False
        result = subprocess.run(
            ["ctr", "-a", str(self._socket), "-n", _NAMESPACE, "containers", "ls", "-q"],
            capture_output=True,
            check=False,
        )
        return result.returncode == 0

    def _check_containerd(self) -> None:
        if not self.processes.alive(self.containerd):
            tail = self.processes.log_tail(self.containerd)
            raise RuntimeError(f"{self.containerd} ended while starting:\n{tail}")

    def _ctr(self, *arguments: str) -> str:
        result = subprocess.run(
            ["ctr", "-a", str(self._socket), "-n", _NAMESPACE, *arguments],
            text=True,
            capture_output=True,
            check=False,
        )
        if result.returncode != 0:
            raise RuntimeError(f"{self.name}: ctr {arguments[0]}: {result.stderr.strip()[-1000:]}")
        return result.stdout

    def _containerd_config(self) -> str:
        # restrict_oom_score_adj: a container in a machine that is itself confined may
        # not lower this value, and pause containers would fail to start.
        return f"""\
version = 2
root = "{self.directory}/containerd"
state = "/run/containerd/state"
oom_score = 0
[grpc]
  address = "{self._socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.directory}/cni"
"""

    def _kubelet_config(self, certificate: Path, key: Path, authority: Authority) -> dict[str, Any]:
        # There is no DNS. Without this file, pods would ask the machine's servers in vain.
        resolver = self.directory / "resolv.conf"
        resolver.write_text("# no name service in this cluster\n")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "port": 10250,
            "readOnlyPort": 0,
            "healthzBindAddress": self.address,
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups.create(self.name),
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "maxPods": 110,
            # The disk and memory are the machine's: a full disk must not evict pods here.
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "resolvConf": str(resolver),
            "clusterDomain": "cluster.local",
            "syncFrequency": "5s",
            "nodeStatusUpdateFrequency": "4s",
            # Renewed at a quarter of this: well within the controller's 12 s of patience.
            "nodeLeaseDurationSeconds": 12,
            "makeIPTablesUtilChains": False,
        }


def normalised(name: str) -> str:
    """Spell an image name in full, as the kubelet does before it asks the runtime."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"
