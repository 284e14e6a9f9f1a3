"""Debian packages fetched and unpacked below a directory of our own, never installed.

apt is pointed at its own source list, state and cache, so neither the user's
source lists nor the system's package database is read for anything but the
mirror address, and nothing is changed. It needs no root.

Unpacking instead of installing also keeps packages that start a service on
installation (etcd, docker-registry) from doing so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def system_mirror(etc: Path = Path("/etc/apt")) -> str:
    """Return the Debian mirror this machine already uses, else Debian's own."""
    files = [etc / "sources.list"]
    parts = etc / "sources.list.d"
    if parts.is_dir():
        files += sorted(parts.iterdir())
    for file in files:
        if not file.is_file() or file.suffix not in (".list", ".sources"):
            continue
        for line in file.read_text(errors="replace").splitlines():
            match = re.match(r"(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(\S+/debian)/?(?:\s|$)", line)
            if match:
                return match.group(1)
    return DEFAULT_MIRROR


class PrivateApt:
    """apt for one Debian suite with all of its state below `directory`."""

    def __init__(self, directory: Path, suite: str, mirror: str | None = None) -> None:
        self.directory = directory
        self.suite = suite
        self.mirror = mirror or system_mirror()

    def update(self) -> None:
        """Write the source list and fetch the package indexes."""
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").touch()
        signed = f"[signed-by={KEYRING}] " if Path(KEYRING).exists() else ""
        (self.directory / "etc/sources.list").write_text(
            f"deb {signed}{self.mirror} {self.suite} main\ndeb-src {signed}{self.mirror} {self.suite} main\n"
        )
        self._run("apt-get", "update", "-q")

    def source(self, package: str, into: Path) -> list[Path]:
        """Download a source package (not unpacked) and return its files."""
        into.mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "source", "-q", "--download-only", package, cwd=into)
        return sorted(into.iterdir())

    def unpack(self, packages: list[str], root: Path) -> None:
        """Download binary packages (exactly these, no dependencies) and unpack them."""
        debs = self.directory / "debs"
        shutil.rmtree(debs, ignore_errors=True)
        debs.mkdir(parents=True)
        self._run("apt-get", "download", "-q", *packages, cwd=debs)
        root.mkdir(parents=True, exist_ok=True)
        for deb in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=True)
        shutil.rmtree(debs)

    def dependencies(self, packages: list[str], prefix: str) -> list[str]:
        """Return the packages and all they depend on whose name starts with `prefix`."""
        flags = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
        listing = self._run("apt-cache", "depends", "--recurse", *(f"--no-{flag}" for flag in flags), *packages)
        names = set(re.findall(rf"^({re.escape(prefix)}[\w.+-]+)$", listing, re.M))
        return sorted(names | set(packages))

    def version(self, package: str) -> str:
        """Return the version of a package the suite offers now, or raise LookupError."""
        listing = self._run("apt-cache", "show", "--no-all-versions", package)
        match = re.search(r"^Version: (\S+)$", listing, re.M)
        if not match:
            raise LookupError(f"{package} is not in Debian {self.suite}")
        return match.group(1)

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc::sourcelist": self.directory / "etc/sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::Lists": self.directory / "lists",
            "Dir::State::status": self.directory / "status",
            "Dir::Cache": self.directory / "cache",
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
            "Acquire::Retries": "3",
            "Acquire::Languages": "none",
        }
        flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        result = subprocess.run(
            [command[0], *flags, *command[1:]], cwd=cwd, text=True, capture_output=True, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr.strip()[-2000:]}")
        return result.stdout
