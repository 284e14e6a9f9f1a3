"""Debian's Prometheus beside the cluster: unpacked and never installed, listening on loopback only.

    with Prometheus(directory) as prometheus:
        prometheus.start(configuration)          # as in prometheus.yml
        prometheus.query("up")

It runs on this machine and not in a pod: this machine has routes to the pods of the local cluster. `promtool`, which
checks rules and lints metrics, comes with it. Debian 12's Prometheus was built without Kubernetes
discovery, so this is Debian 13's, whose programs run on both.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cluster.build import build_lock
from cluster.control_plane import free_port, wait_until
from cluster.paths import cache_directory, say
from cluster.private_apt import PrivateApt
from cluster.processes import Processes

SUITE = "trixie"
_NAME = "prometheus"
_PROGRAMS = ("prometheus", "promtool")
"""Programs, and packages of the same names."""

Series = list[dict[str, Any]]
"""`metric` with the labels, and `value` or `values`, as in Prometheus' API."""


def programs() -> dict[str, Path]:
    """Paths of prometheus and promtool, unpacked once from Debian's package into the cache."""
    folder = cache_directory() / f"prometheus-{SUITE}"
    if not folder.is_dir():
        with build_lock(folder.with_suffix(".build")):
            if not folder.is_dir():
                _unpack(folder)
    return {name: folder / name for name in _PROGRAMS}


def _unpack(folder: Path) -> None:
    say("fetching Debian's prometheus, once")
    work = folder.with_suffix(".build")
    apt = PrivateApt(work / "apt", SUITE)
    apt.update()
    apt.unpack(list(_PROGRAMS), work / "debian")
    partial = work / "out"
    partial.mkdir(exist_ok=True)
    for name in _PROGRAMS:
        shutil.copy2(work / "debian" / "usr" / "bin" / name, partial / name)
    partial.rename(folder)
    shutil.rmtree(work)


class Prometheus:
    """One server with its data below `directory`. It ends with this process, however that ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes = Processes(directory, detached=False)
        self._port = free_port()

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, configuration: dict[str, Any]) -> None:
        """Start it with what prometheus.yml would hold, and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # JSON is YAML as well.
        file = self.directory / "prometheus.yml"
        file.write_text(json.dumps(configuration))
        self.processes.start(
            _NAME,
            [
                str(programs()["prometheus"]),
                f"--config.file={file}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--log.level=warn",
            ],
        )
        wait_until(self._ready, "Prometheus", 60, self._check)

    def stop(self) -> None:
        """Stop it; the data stays."""
        self.processes.stop_all()

    def query(self, expression: str, time: float | None = None) -> Series:
        """Evaluate an expression, now or at a Unix time."""
        arguments = {"query": expression} | ({} if time is None else {"time": str(time)})
        return self._result("query", arguments)

    def query_range(self, expression: str, start: float, end: float, step: float) -> Series:
        """Evaluate an expression every `step` seconds between two Unix times."""
        times = {"start": str(start), "end": str(end), "step": str(step)}
        return self._result("query_range", {"query": expression} | times)

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, with `labels`, `health` and `lastError`."""
        return list(self._get("targets", {"state": "active"})["activeTargets"])

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or fire."""
        return list(self._get("alerts", {})["alerts"])

    def _result(self, path: str, arguments: dict[str, str]) -> Series:
        return list(self._get(path, arguments)["result"])

    def _get(self, path: str, arguments: dict[str, str]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                document: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path} {arguments}: {error.read().decode(errors='replace')}") from error
        return dict(document["data"])

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _check(self) -> None:
        if not self.processes.alive(_NAME):
            raise RuntimeError(f"Prometheus ended while starting:\n{self.processes.log_tail(_NAME)}")
