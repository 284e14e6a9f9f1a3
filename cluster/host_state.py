"""What the cluster changes on the machine: remembered before, put back after.

The kubelet and kube-proxy change kernel settings and packet filter rules without
being asked. `save` writes how things were to a file *before* the first of them
starts; `restore` puts them back, whatever happened in between. The file is the
only memory, so restoring also works after a crash.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

from cluster.processes import boot_id

# Set by the kubelet, by kube-proxy and by the bridge plugin.
SYSCTLS = (
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv6.conf.all.forwarding",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
)
# Mount points that each node covers with directories of its own (see node.py),
# and the folder that the host-path provisioner insists on.
DIRECTORIES = (
    "/var/log/pods",
    "/var/log/containers",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/run/netns",
    "/run/containerd",
    "/tmp/hostpath_pv",
)
_FAMILIES = ("iptables", "ip6tables")


class HostState:
    """The machine's settings as they were before the cluster; `root` is for tests."""

    def __init__(self, file: Path, root: Path = Path("/")) -> None:
        self.file = file
        self.root = root

    @property
    def saved(self) -> bool:
        """Whether there is something to put back."""
        return self.file.exists()

    def save(self) -> None:
        """Remember the settings, unless an earlier, unrestored memory exists."""
        if self.saved:
            return
        tables = {family: dump_rules(family) for family in _FAMILIES}
        state = {
            "boot": boot_id(),
            "sysctls": {name: value for name in SYSCTLS if (value := self._read(name))},
            "chains": {family: sorted(kube_chains(text)) for family, text in tables.items()},
            "made": [name for name in DIRECTORIES if not self._path(name).exists()],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(state, indent=1))
        partial.rename(self.file)
        for name in DIRECTORIES:
            self._path(name).mkdir(parents=True, exist_ok=True)

    def restore(self) -> None:
        """Put everything back and forget it."""
        if not self.saved:
            return
        state = json.loads(self.file.read_text())
        # After a reboot the kernel has its own values again and the rules are gone.
        if state["boot"] == boot_id():
            for name, value in state["sysctls"].items():
                if self._read(name) != value:
                    self._sysctl(name).write_text(value + "\n")
            for family in _FAMILIES:
                remove_rules(family, set(state["chains"][family]))
        for name in state["made"]:
            with contextlib.suppress(OSError):  # gone, or something else lives there now
                self._path(name).rmdir()
        self.file.unlink()

    def _path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def _sysctl(self, name: str) -> Path:
        return self.root / "proc/sys" / name.replace(".", "/")

    def _read(self, name: str) -> str | None:
        try:
            return self._sysctl(name).read_text().strip()
        except OSError:
            return None


def dump_rules(family: str) -> str:
    """Return the packet filter rules in `iptables-save` format."""
    result = subprocess.run([f"{family}-save"], text=True, capture_output=True, check=False)
    return result.stdout if result.returncode == 0 else ""


def kube_chains(dump: str) -> set[str]:
    """Return `table/chain` for every chain that kube-proxy or a kubelet makes."""
    return {f"{table}/{chain}" for table, chain in _chains(dump) if chain.startswith("KUBE-")}


def table_names(dump: str) -> list[str]:
    """Return the tables that a dump mentions."""
    return [line[1:] for line in dump.splitlines() if line.startswith("*")]


def _chains(dump: str) -> list[tuple[str, str]]:
    found, table = [], ""
    for line in dump.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            found.append((table, line[1:].split()[0]))
    return found


def removal_script(dump: str, keep: set[str]) -> str:
    """Return input for `iptables-restore --noflush` that deletes our chains and jumps to them.

    Chains named in `keep` were there before the cluster and stay.
    """
    ours = kube_chains(dump) - keep
    script: list[str] = []
    for table in table_names(dump):
        chains = sorted(name.split("/")[1] for name in ours if name.startswith(f"{table}/"))
        if not chains:
            continue
        jumps, current = [], ""
        for line in dump.splitlines():
            if line.startswith("*"):
                current = line[1:]
            words = line.split()
            if current != table or not line.startswith("-A ") or words[1] in chains:
                continue
            if any(words[i] in ("-j", "-g") and words[i + 1] in chains for i in range(len(words) - 1)):
                jumps.append("-D" + line[2:])
        script += [f"*{table}", *(f"-F {chain}" for chain in chains), *jumps]
        script += [*(f"-X {chain}" for chain in chains), "COMMIT"]
    return "\n".join(script) + "\n" if script else ""


def remove_rules(family: str, keep: set[str]) -> None:
    """Delete our rules. Tables that only they brought into being stay, empty."""
    script = removal_script(dump_rules(family), keep)
    if script:
        command = [f"{family}-restore", "--noflush"]
        subprocess.run(command, input=script, text=True, check=True, capture_output=True)
