"""Runs the trainer in a process of its own that begins with everything imported, and reads what it printed.

Imports cost more than a short run learns in. The processes are therefore forked from a server that has made them
(`multiprocessing`'s forkserver), each before any computation: a run is as fresh as in a new interpreter.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Event = dict[str, Any]

PRELOADED = (
    "plumbline_trainer.run",
    "plumbline_trainer.tasks.rlvr",
    "plumbline_trainer.tasks.preference",
    "transformers.models.llama.modeling_llama",
    "bench.learning.probing",
)
"""Modules that runs find imported."""

LOG, WORDS, USAGE, PROBE = "log.jsonl", "last-words.json", "usage.json", "probe.json"


class RunFailed(Exception):
    """A trainer ended with an error."""


@dataclass(frozen=True)
class Ran:
    """What a run that came to its end has said and cost."""

    events: list[Event]
    """Its steps and evaluations, as it printed them."""

    cpu_seconds: float
    """Of the process and of those that it started, without imports."""

    wall_seconds: float
    probe: dict[str, Any] | None


class Trainer:
    """Runs job documents one after the other."""

    def __init__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))

    def run(self, document: dict[str, Any], folder: Path, *, probe: int = 0) -> Ran:
        """Trains as the document says, in an empty folder; then takes `probe` samples of every held-out prompt.

        Raises `RunFailed` with the last lines of the log.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(document, indent=1))
        process = self._context.Process(target=_train, args=(folder, probe))
        started = time.monotonic()
        process.start()
        try:
            process.join()
        except BaseException:
            process.terminate()
            process.join()
            raise
        log = (folder / LOG).read_text(encoding="utf-8")
        if process.exitcode:
            raise RunFailed(f"{document['metadata']['name']} ended with exit code {process.exitcode}:\n{log[-3000:]}")
        probed = json.loads((folder / PROBE).read_text()) if probe else None
        cpu = json.loads((folder / USAGE).read_text())["cpu_seconds"]
        return Ran(_events(log), cpu, time.monotonic() - started, probed)


def _train(folder: Path, probe: int) -> None:
    from bench.learning.probing import probe_held_out
    from plumbline_trainer.run import Options, run
    from plumbline_trainer.stopping import StopRequest

    before = _cpu_seconds()
    stop = StopRequest()
    stop.listen()
    with (folder / LOG).open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        code = run(Options(folder / "job.json", preflight=False, port=0, termination_log=folder / WORDS), stop)
    if code == 0 and probe:
        document = json.loads((folder / "job.json").read_text())
        (folder / PROBE).write_text(json.dumps(probe_held_out(document, probe)))
    (folder / USAGE).write_text(json.dumps({"cpu_seconds": _cpu_seconds() - before}))
    sys.exit(code)


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _events(log: str) -> list[Event]:
    found = []
    for line in log.splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict) and event.get("event") in ("step", "evaluation"):
            found.append(event)
    return found
