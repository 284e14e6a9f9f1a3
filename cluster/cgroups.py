"""The control groups below which the nodes put their pods, for cgroup v1 and v2.

The kubelet expects its root group to exist in every hierarchy. Whatever runs in
a group below ours is ours, so this is also the surest way to find the
processes of containers.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from cluster.processes import stop_pids

GROUP = "plumbline"


def hierarchies() -> list[Path]:
    """Return the mount points of all control group hierarchies (one on pure v2)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return found


def create(node: str) -> str:
    """Make a node's group in every hierarchy and return its name for the kubelet."""
    for hierarchy in hierarchies():
        for group in (hierarchy / GROUP, hierarchy / GROUP / node):
            group.mkdir(exist_ok=True)
            _prepare(group)
    return f"/{GROUP}/{node}"


def _prepare(group: Path) -> None:
    # v1: a new cpuset is empty, and nothing can run in it until it is filled.
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = group / name
        is_v1 = file.exists() and not (group / "cgroup.controllers").exists()
        if is_v1 and not file.read_text().strip():
            file.write_text((group.parent / name).read_text())
    # v2: children get only the controllers that their parent hands down.
    offered = group.parent / "cgroup.controllers"
    if offered.exists():
        for controller in offered.read_text().split():
            with contextlib.suppress(OSError):  # some cannot be handed down
                (group.parent / "cgroup.subtree_control").write_text(f"+{controller}")


def remove() -> None:
    """Kill what runs in our groups and remove them."""
    roots = [root for hierarchy in hierarchies() if (root := hierarchy / GROUP).is_dir()]
    pids: set[int] = set()
    for root in roots:
        for file in root.rglob("cgroup.procs"):
            pids.update(int(pid) for pid in _read(file).split() if int(pid) > 1)
    stop_pids(pids, grace=0)
    for root in roots:
        for folder, _, _ in os.walk(root, topdown=False):
            _rmdir(Path(folder))


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _rmdir(group: Path) -> None:
    """Remove one group; it stays busy for a moment after its last process."""
    for _ in range(50):
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)
