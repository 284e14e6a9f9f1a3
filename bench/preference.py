"""Plumbline's DPO against TRL's: the same model, rows, order and optimizer steps, each training in its own process.

    python -m bench.preference --model 11m --threads 1 2 --opponents 1.13.0 newest

The sides take turns, all of them `--repeats` times, and every figure is the median over the repeats. After each round
the results so far are written to `bench/results/<date and time>-<model>.json` and `.md`. What cannot be compared (other
token ids, other tokens at a step, other losses in a repeat) is an error; losses that differ between sides are marked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.comparison import Figures, NotComparable, Ratios, figures, ratios, require_same_work
from bench.machine import ROOT, commit, describe_machine
from bench.measurement import Assignment, Report
from bench.sides.launching import OURS, OURS_COMPILED, Side, SideFailed, run_side, trl_side
from bench.tables import figures_table, ratios_table
from bench.vocabulary import make_vocabulary
from bench.workload import (
    MODELS,
    Lengths,
    cache_directory,
    draw_pairs,
    lengths_of,
    model_directory,
    write_pairs,
)


@dataclass
class Measured:
    """Runs of all sides with one number of threads."""

    threads: int
    reports: dict[str, list[Report]] = field(default_factory=dict)
    loads: dict[str, list[float]] = field(default_factory=dict)
    """Load average of the machine before each run."""

    def add(self, side: str, report: Report, load: float) -> None:
        """Adds a run."""
        self.reports.setdefault(side, []).append(report)
        self.loads.setdefault(side, []).append(load)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.preference", description="Plumbline's DPO against TRL's, measured.")
    parser.add_argument("--model", choices=MODELS, default="11m")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="one table each (default: 1 2)")
    parser.add_argument(
        "--opponents",
        nargs="*",
        default=["1.13.0", "newest"],
        help="versions of TRL, or `newest`; with +precomputed, TRL computes the reference before the first step",
    )
    parser.add_argument("--compile", action="store_true", help="also measure our step through torch.compile")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps in an epoch (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=8, help="pairs in an optimizer step (default: TRL's, %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of every side (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0, help="of weights and rows")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results", help="folder of the results")
    parser.add_argument("--name", help="file name of the results without its ending")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace, cache: Path) -> tuple[Assignment, list[int]]:
    """Model and rows on disk: what every side is told, and the useful tokens of every step."""
    pairs = draw_pairs(
        options.steps * options.pairs, options.seed, make_vocabulary(MODELS[options.model].vocabulary), Lengths()
    )
    rows = cache / f"rows-{options.model}-{len(pairs)}-{options.seed}.jsonl"
    write_pairs(rows, pairs)
    useful = [lengths_of(pair).useful_tokens for pair in pairs]
    tokens = [sum(useful[start : start + options.pairs]) for start in range(0, len(useful), options.pairs)]
    assignment = Assignment(
        model=str(model_directory(cache, options.model, options.seed)),
        rows=str(rows),
        pairs_per_step=options.pairs,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        beta=0.1,
        gradient_clip=1.0,
        seed=options.seed,
        work="",
        report="",
    )
    return assignment, tokens * options.epochs


def compare(measured: Measured, steps_per_epoch: int) -> tuple[dict[str, Figures], dict[str, Ratios]]:
    """Figures of all sides, and ratios of all but ours to ours."""
    sides = {name: figures(reports, steps_per_epoch) for name, reports in measured.reports.items()}
    others = {name: ratios(sides[OURS.name], side) for name, side in sides.items() if name != OURS.name}
    return sides, others


def document(options: argparse.Namespace, everything: Sequence[Measured]) -> dict[str, Any]:
    """All that was measured, and what it is to be read with."""
    results = []
    for measured in everything:
        sides, others = compare(measured, options.steps)
        results.append(
            {
                "threads": measured.threads,
                "figures": {name: asdict(side) for name, side in sides.items()},
                "ratios": {
                    name: {**asdict(other), "losses_agree": other.losses_agree} for name, other in others.items()
                },
                "load_before_runs": measured.loads,
                "runs": {name: [asdict(report) for report in reports] for name, reports in measured.reports.items()},
            }
        )
    return {
        "benchmark": "preference",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": asdict(describe_machine()),
        "settings": {key: value for key, value in vars(options).items() if key not in ("output", "name")},
        "model": asdict(MODELS[options.model]),
        "lengths": asdict(Lengths()),
        "results": results,
    }


def page(options: argparse.Namespace, everything: Sequence[Measured]) -> str:
    """The tables as Markdown."""
    shape = MODELS[options.model]
    parameters = shape.matrix_parameters + shape.head_parameters
    parts = [
        f"{options.model}: {parameters / 1e6:.1f} M parameters, vocabulary {shape.vocabulary}; {options.pairs} pairs a "
        f"step, {options.steps} steps an epoch, {options.epochs} epochs; median of {options.repeats} runs. "
        f"Commit {commit()}. {describe_machine()}."
    ]
    for measured in everything:
        sides, others = compare(measured, options.steps)
        parts += [f"Threads: {measured.threads}", figures_table(sides)]
        if others:
            parts.append(ratios_table(others))
    return "\n\n".join(parts) + "\n"


def measure(options: argparse.Namespace, sides: Sequence[Side], cache: Path) -> list[Measured]:
    """Runs everything, and writes what is there after each round. Raises `SideFailed`, `NotComparable`."""
    assignment, tokens = prepare(options, cache)
    name = options.name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{options.model}"
    options.output.mkdir(parents=True, exist_ok=True)
    everything: list[Measured] = []
    for threads in options.threads:
        measured = Measured(threads)
        everything.append(measured)
        for repeat in range(options.repeats):
            for side in sides:
                report, load = run_side(side, assignment, threads, cache)
                measured.add(side.name, report, load)
                cost = figures([report], options.steps).first_epoch
                print(
                    f"threads {threads}, run {repeat + 1} of {options.repeats}, {side.name}: "
                    f"{cost.cpu:.3f} ms CPU, {cost.wall:.3f} ms wall a token in the first epoch (load before: {load})",
                    flush=True,
                )
            require_same_work(measured.reports, tokens)
            (options.output / f"{name}.json").write_text(json.dumps(document(options, everything), indent=1) + "\n")
            (options.output / f"{name}.md").write_text(page(options, everything))
    return everything


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes, prints the tables; the exit code is 1 where a side failed or losses disagree."""
    options = parse(arguments)
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        sides = [OURS, *([OURS_COMPILED] if options.compile else []), *(trl_side(text) for text in options.opponents)]
        everything = measure(options, sides, cache)
    except (SideFailed, NotComparable, ValueError) as error:
        print(f"bench.preference: {error}", file=sys.stderr)
        return 1
    print(page(options, everything))
    agree = [other.losses_agree for measured in everything for other in compare(measured, options.steps)[1].values()]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
