"""Where the local cluster keeps its files."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STARTED = time.monotonic()


def state_directory() -> Path:
    """Everything that belongs to the running cluster; `down` empties most of it."""
    return Path(os.environ.get("PLUMBLINE_CLUSTER_DIR", "/var/lib/plumbline-cluster"))


def kubeconfig_path() -> Path:
    """The administrator's kubeconfig, present whenever a cluster is up."""
    return state_directory() / "kubeconfig"


def cache_directory() -> Path:
    """Binaries that are expensive to build; they survive `down --purge`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "plumbline"


def say(message: str) -> None:
    """Print one progress line with the seconds since this command started."""
    print(f"[{time.monotonic() - _STARTED:6.1f}s] {message}", flush=True)
