"""Trains every method on every task, and writes what came of it.

    python -m bench.learning [--minutes 5] [--tasks arithmetic ...] [--methods grpo ...] [--seeds 0 1 2] [--report]

Every finished run is stored in `bench/results/learning.json`; a run is skipped where that file has it for the same
configuration, so an interrupted sweep goes on where it was. At the end the tables of docs/learning.md and the curves
in docs/img are written from that file alone, which is all that `--report` does.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.learning.bases import Bases
from bench.learning.methods import METHODS
from bench.learning.records import Results
from bench.learning.report import write_report
from bench.learning.sweep import Sweep, chosen, plan
from bench.learning.tasks import TASKS
from bench.learning.training import RunFailed, Trainer
from bench.machine import ROOT, describe_machine, installed

RESULTS = ROOT / "bench" / "results" / "learning.json"
PACKAGES = ("torch", "transformers", "reasoning-gym")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.learning", description="What RLVR jobs learn on small tasks.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[], help="default: all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[], help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run is begun after so long")
    parser.add_argument("--report", action="store_true", help="run nothing, write the report of what is stored")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, stores and reports; the exit code is 1 where a run failed."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: no trainer is left behind
    results = Results.read(options.results)
    if not options.report:
        results.machine = asdict(describe_machine())
        results.versions = {package: installed(package) for package in PACKAGES}
        runs = chosen(plan(), options.tasks, options.methods, options.seeds)
        trainer = Trainer()
        try:
            finished = Sweep(results, options.results, trainer, Bases(trainer)).run(runs, options.minutes)
        except RunFailed as failure:
            print(f"bench.learning: {failure}", file=sys.stderr)
            return 1
        if not finished:
            print("bench.learning: time is up; the next call goes on from here")
            return 0
    if options.results == RESULTS:
        write_report(results)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        raise SystemExit("\nbench.learning: interrupted; the next call goes on from here") from None
