"""The operator in a process forked from one that has imported it: killed and started again without a start-up time."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import urllib.request
from multiprocessing.process import BaseProcess
from pathlib import Path

from cluster.control_plane import free_port

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["plumbline_operator.__main__"])


class ForkedOperator:
    """Serves one namespace."""

    def __init__(self, kubeconfig: str, log: Path, namespace: str, *flags: str) -> None:
        self._health_port, self._metrics_port = free_port(), free_port()
        ports = ["--metrics-port", str(self._metrics_port), "--health-port", str(self._health_port)]
        self._arguments = ["--kubeconfig", kubeconfig, *ports, "--namespace", namespace, *flags]
        self._log = log
        self._process: BaseProcess | None = None

    def start(self) -> None:
        self._process = _CONTEXT.Process(target=run, args=(self._arguments, str(self._log)))
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def stop(self) -> int | None:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        self._process.join(20)
        return self._process.exitcode

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more when this returns."""
        assert self._process is not None
        self._process.kill()
        self._process.join()

    def ready(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self._health_port}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def reconciliations(self) -> float:
        """How many there were, of all kinds and results."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("plumbline_operator_reconcile_total{"))


def run(arguments: list[str], log: str) -> None:
    """The child: what `python -m plumbline_operator` does, with its words in a file."""
    from plumbline_operator.__main__ import parse_arguments
    from plumbline_operator.__main__ import run as run_operator
    from plumbline_operator.logs import configure_logs

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    configure_logs("info")
    asyncio.run(run_operator(parse_arguments(arguments)))
