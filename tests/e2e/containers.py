"""The processes of a pod's containers, as the machine sees them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any


def processes_of(pod: dict[str, Any], container: str) -> list[int]:
    """Pids of a container's processes on this machine; none while it does not run."""
    statuses = pod["status"].get("containerStatuses", [])
    identity = next((status.get("containerID", "") for status in statuses if status["name"] == container), "")
    name = identity.rpartition("//")[2]
    found = []
    for cgroup in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            if name and name in cgroup.read_text():
                found.append(int(cgroup.parent.name))
    return sorted(found)


def kill_container(pod: dict[str, Any], container: str) -> int:
    """SIGKILL to a container's processes, from the node: inside its own namespace the first would be immune.

    Returns how many there were.
    """
    killed = 0
    for pid in processes_of(pod, container):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed
