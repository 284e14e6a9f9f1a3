"""Plumbline's GRPO against TRL's: whole iterations (generate, score, update) of the same job, each in its own process.

    python -m bench.rlvr --model 11m --threads 1 2 --opponents 1.13.0 newest

Run number r of every side samples with seed r, and the sides take turns. After each round the results so far are
written to `bench/results/<date and time>-rlvr-<model>.json` and `.md`. Sides that use other prompts are an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.comparison import NotComparable
from bench.iterations import RolloutAssignment, RolloutReport
from bench.machine import ROOT, commit, describe_machine, load_average
from bench.rollout_comparison import (
    Curve,
    RolloutFigures,
    RolloutRatios,
    curve,
    curves_table,
    require_same_prompts,
    rollout_figures,
    rollout_figures_table,
    rollout_ratios,
    rollout_ratios_table,
)
from bench.rollout_workload import draw_prompts, ending_model_directory, write_prompts
from bench.sides.launching import Side, SideFailed, require_version, run_module, trl_side
from bench.vocabulary import make_vocabulary
from bench.workload import MODELS, cache_directory

OURS = Side("plumbline", "bench.sides.ours_rlvr")
PROMPT_LENGTHS = (64, 128)


@dataclass
class Measured:
    """Runs of all sides with one number of threads."""

    threads: int
    reports: dict[str, list[RolloutReport]] = field(default_factory=dict)
    loads: dict[str, list[float]] = field(default_factory=dict)
    """Load average of the machine before each run."""

    def figures(self) -> dict[str, RolloutFigures]:
        """Figures of all sides."""
        return {name: rollout_figures(reports) for name, reports in self.reports.items()}

    def ratios(self) -> dict[str, RolloutRatios]:
        """Ratios of all sides but ours to ours."""
        figures = self.figures()
        return {name: rollout_ratios(figures[OURS.name], side) for name, side in figures.items() if name != OURS.name}

    def curves(self) -> dict[str, Curve]:
        """Learning curves of all sides."""
        return {name: curve(reports) for name, reports in self.reports.items()}

    def overlaps(self) -> dict[str, float]:
        """Share of the iterations in which a side's rewards over the seeds meet ours."""
        curves = self.curves()
        return {name: curves[OURS.name].overlap(other) for name, other in curves.items() if name != OURS.name}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.rlvr", description="Plumbline's GRPO against TRL's, measured.")
    parser.add_argument("--model", choices=MODELS, default="11m")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="one table each (default: 1 2)")
    parser.add_argument("--opponents", nargs="*", default=["1.13.0", "newest"], help="versions of TRL, or `newest`")
    parser.add_argument("--iterations", type=int, default=6, help="of a run (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=4, help="of an iteration (default: %(default)s)")
    parser.add_argument("--group-size", type=int, default=8, help="completions a prompt (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest completion (default: %(default)s)")
    parser.add_argument(
        "--mean-length",
        type=int,
        default=64,
        help="mean of the geometric lengths before the limit; 0: all run to the limit (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of every side, a seed each (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-6, help="default: TRL's, %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results", help="folder of the results")
    parser.add_argument("--name", help="file name of the results without its ending")
    options = parser.parse_args(arguments)
    if options.mean_length == 1:
        parser.error("--mean-length must be 0 or at least 2")
    return options


def opponent(text: str) -> Side:
    """The side that `text` names. Raises `ValueError` for what is no version."""
    side = trl_side(text)
    if side.precompute_reference:
        raise ValueError(f"{text!r}: no reference is used here")
    return replace(side, module="bench.sides.trl_grpo")


def prepare(options: argparse.Namespace, cache: Path) -> RolloutAssignment:
    """Model and prompts on disk: what every side is told."""
    count = options.prompts * options.iterations
    rows = cache / f"prompts-{options.model}-{count}.jsonl"
    vocabulary = make_vocabulary(MODELS[options.model].vocabulary)
    write_prompts(rows, draw_prompts(count, 0, vocabulary, PROMPT_LENGTHS))
    return RolloutAssignment(
        model=str(ending_model_directory(cache, options.model, 0, options.mean_length)),
        rows=str(rows),
        prompts_per_iteration=options.prompts,
        group_size=options.group_size,
        iterations=options.iterations,
        max_tokens=options.max_tokens,
        learning_rate=options.learning_rate,
        gradient_clip=1.0,
        seed=0,
        work="",
        report="",
    )


def run_rollout_side(side: Side, assignment: RolloutAssignment, threads: int, cache: Path) -> RolloutReport:
    """One training by `side` in a new process, in a new folder. Raises `SideFailed`."""
    with tempfile.TemporaryDirectory(dir=cache) as work:
        told = replace(assignment, work=work, report=f"{work}/report.json")
        told.write(Path(work) / "assignment.json")
        run_module(side, Path(work), threads, cache)
        report = RolloutReport.read(Path(told.report))
    require_version(side, report.versions)
    return report


def document(options: argparse.Namespace, everything: Sequence[Measured]) -> dict[str, Any]:
    """All that was measured, and what it is to be read with."""
    return {
        "benchmark": "rlvr",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": asdict(describe_machine()),
        "settings": {key: value for key, value in vars(options).items() if key not in ("output", "name")},
        "model": asdict(MODELS[options.model]),
        "prompt_lengths": PROMPT_LENGTHS,
        "results": [
            {
                "threads": measured.threads,
                "figures": {name: asdict(side) for name, side in measured.figures().items()},
                "ratios": {name: asdict(other) for name, other in measured.ratios().items()},
                "curves": {name: asdict(side) for name, side in measured.curves().items()},
                "overlaps": measured.overlaps(),
                "load_before_runs": measured.loads,
                "runs": {name: [asdict(report) for report in reports] for name, reports in measured.reports.items()},
            }
            for measured in everything
        ],
    }


def page(options: argparse.Namespace, everything: Sequence[Measured]) -> str:
    """The tables as Markdown."""
    shape = MODELS[options.model]
    parameters = shape.matrix_parameters + shape.head_parameters
    lengths = f"mean {options.mean_length} before the limit" if options.mean_length else "all at the limit"
    parts = [
        f"{options.model}: {parameters / 1e6:.1f} M parameters, vocabulary {shape.vocabulary}; {options.prompts} "
        f"prompts of {PROMPT_LENGTHS[0]} to {PROMPT_LENGTHS[1]} tokens, {options.group_size} completions each of at "
        f"most {options.max_tokens} tokens ({lengths}); {options.iterations} iterations with each of "
        f"{options.seeds} seeds. Commit {commit()}. {describe_machine()}."
    ]
    for measured in everything:
        parts += [f"Threads: {measured.threads}", rollout_figures_table(measured.figures())]
        if ratios := measured.ratios():
            parts.append(rollout_ratios_table(ratios))
        parts.append(curves_table(measured.curves()))
        parts += [
            f"The seeds' ranges of plumbline and {name} meet in {share:.0%} of the iterations."
            for name, share in measured.overlaps().items()
        ]
    return "\n\n".join(parts) + "\n"


def measure(options: argparse.Namespace, sides: Sequence[Side], cache: Path) -> list[Measured]:
    """Runs everything, and writes what is there after each round. Raises `SideFailed`, `NotComparable`."""
    assignment = prepare(options, cache)
    name = options.name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-rlvr-{options.model}"
    options.output.mkdir(parents=True, exist_ok=True)
    everything: list[Measured] = []
    for threads in options.threads:
        measured = Measured(threads)
        everything.append(measured)
        for seed in range(options.seeds):
            for side in sides:
                load = load_average()
                report = run_rollout_side(side, replace(assignment, seed=seed), threads, cache)
                measured.reports.setdefault(side.name, []).append(report)
                measured.loads.setdefault(side.name, []).append(load)
                seconds = rollout_figures([report]).seconds
                print(
                    f"threads {threads}, seed {seed}, {side.name}: {seconds:.2f} s an iteration (load before: {load})",
                    flush=True,
                )
            require_same_prompts(measured.reports, options.iterations)
            (options.output / f"{name}.json").write_text(json.dumps(document(options, everything), indent=1) + "\n")
            (options.output / f"{name}.md").write_text(page(options, everything))
    return everything


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes, prints the tables; the exit code is 1 where a side failed."""
    options = parse(arguments)
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        everything = measure(options, [OURS, *(opponent(text) for text in options.opponents)], cache)
    except (SideFailed, NotComparable, ValueError) as error:
        print(f"bench.rlvr: {error}", file=sys.stderr)
        return 1
    print(page(options, everything))
    return 0


if __name__ == "__main__":
    sys.exit(main())
