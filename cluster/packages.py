"""The Debian packages that a cluster of plain processes needs, installed if missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cluster.paths import say

# command or file that proves the package is there -> package
_NEEDED = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ebtables": "ebtables",
    "socat": "socat",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "openssl": "openssl",
    "mount": "mount",
    "nsenter": "util-linux",
}


def missing_packages() -> list[str]:
    """Return the packages whose files are not on this machine."""
    absent = {
        package
        for proof, package in _NEEDED.items()
        if not (Path(proof).exists() if proof.startswith("/") else shutil.which(proof))
    }
    return sorted(absent)


def install_missing() -> None:
    """Install what is missing with apt-get."""
    packages = missing_packages()
    if not packages:
        return
    say(f"installing Debian packages: {' '.join(packages)}")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        result = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr.strip()[-2000:]}")
