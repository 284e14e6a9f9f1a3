"""How far our DPO step is from the least time this machine could need for it, and where the rest goes.

    python -m bench.floor --model 11m --threads 1 2

The floor is the time of the matrix products that no implementation can avoid (6 x parameters x tokens, prompts once a
pair, the head at completion tokens only), each timed in its own shape with nothing beside it, plus attention's
operations at the best rate of these products. A measured step is compared with it, and one step of the same run is
taken apart by torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.machine import ROOT, commit, describe_machine
from bench.measurement import Report
from bench.operations import PASSES, breakdown, forward_operations
from bench.preference import prepare
from bench.sides.launching import OURS, SideFailed, run_side
from bench.tables import markdown
from bench.workload import MODELS, ModelShape, PairLengths, cache_directory, lengths_of, read_pairs

EPOCHS = 2
"""The steps of the second one find the reference's log-probabilities ready."""


@dataclass(frozen=True)
class Products:
    """Seconds of the products of a step with all its tokens at once, each the best of several."""

    forward: float
    backward: float
    operations: float
    """Of forward and backward passes."""

    best_rate: float
    """Operations a second of the fastest product."""

    @property
    def rate(self) -> float:
        """Operations a second over all products."""
        return self.operations / (self.forward + self.backward)


@dataclass(frozen=True)
class Floor:
    """The least seconds of a step."""

    update: float
    """With the reference's log-probabilities at hand."""

    reference: float
    """The reference's forward pass over the same pairs."""


def floor_of(products: Products, attention: float) -> Floor:
    """The floor from timed products and the operations of attention in one forward pass."""
    forward = attention / products.best_rate
    return Floor(products.forward + products.backward + PASSES * forward, products.forward + forward)


def time_products(shape: ModelShape, tokens: int, scored: int, repeats: int = 3) -> Products:
    """Times every product of a step: `tokens` rows in the layers, `scored` rows in the head."""
    forward = backward = operations = best = 0.0
    matrices = [(pair, shape.layers, tokens) for pair in shape.projections.values()]
    matrices.append(((shape.hidden, shape.vocabulary), 1, scored))
    known: dict[tuple[int, int, int], tuple[float, float]] = {}
    for (inputs, outputs), count, rows in matrices:
        key = (rows, inputs, outputs)
        if key not in known:
            known[key] = _time_product(rows, inputs, outputs, repeats)
        ahead, back = known[key]
        forward += count * ahead
        backward += count * back
        each = 2.0 * rows * inputs * outputs
        operations += count * PASSES * each
        best = max(best, each / ahead, 2.0 * each / back)
    return Products(forward, backward, operations, best)


def _time_product(rows: int, inputs: int, outputs: int, repeats: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rows, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    gradient = torch.randn(rows, outputs, generator=generator)
    ahead = _fastest(lambda: values @ weight.T, repeats)
    back = _fastest(lambda: gradient @ weight, repeats) + _fastest(lambda: gradient.T @ values, repeats)
    return ahead, back


def _fastest(work: Callable[[], Any], repeats: int) -> float:
    durations = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; the names are those of `bench.preference`."""
    parser = argparse.ArgumentParser(prog="bench.floor", description="Our DPO step against the machine's floor.")
    parser.add_argument("--model", choices=MODELS, default="11m")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=4, help="steps in each of two epochs (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=8, help="pairs in an optimizer step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--name", help="file name of the results without its ending")
    options = parser.parse_args(arguments)
    options.epochs = EPOCHS
    return options


def measure(options: argparse.Namespace, threads: int, cache: Path) -> dict[str, Any]:
    """Floor, measured step and breakdown with `threads` threads. Raises `SideFailed`."""
    shape = MODELS[options.model]
    assignment, _ = prepare(options, cache)
    pairs = [lengths_of(pair) for pair in read_pairs(Path(assignment.rows))]
    torch.set_num_threads(threads)
    tokens, scored = _tokens_per_step(pairs, options.steps)
    products = time_products(shape, tokens, scored)
    attention = forward_operations(shape, pairs).attention / options.steps
    floor = floor_of(products, attention)
    plain, load = run_side(OURS, assignment, threads, cache)
    profiled_step = 2 * options.steps - 1
    profiled, _ = run_side(OURS, replace(assignment, profile_step=profiled_step), threads, cache)
    step = median(step.seconds.wall for step in plain.steps[options.steps :])
    parts = breakdown(profiled.profile, shape.vocabulary, profiled.steps[profiled_step].seconds.wall)
    return {
        "threads": threads,
        "tokens_per_step": {"layers": tokens, "head": scored},
        "products": {**asdict(products), "rate": products.rate},
        "floor_seconds": asdict(floor),
        "step_seconds": step,
        "share_of_floor": floor.update / step,
        "breakdown_seconds": parts,
        "load_before": load,
        "slowest_operators": _slowest(profiled),
    }


def _tokens_per_step(pairs: Sequence[PairLengths], steps: int) -> tuple[int, int]:
    """Tokens in the layers, with prompts once a pair, and in the head, of the mean step."""
    scored = sum(pair.chosen + pair.rejected for pair in pairs)
    return (scored + sum(pair.prompt for pair in pairs)) // steps, scored // steps


def _slowest(report: Report, count: int = 25) -> list[dict[str, Any]]:
    ordered = sorted(report.profile, key=lambda operation: -operation.cpu_seconds)
    return [asdict(operation) for operation in ordered[:count]]


def page(options: argparse.Namespace, results: Sequence[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    rates = markdown(
        ["threads", "GFLOP/s", "floor of a step", "measured step", "share of the floor", "floor of the reference pass"],
        [
            [
                str(result["threads"]),
                f"{result['products']['rate'] / 1e9:.1f}",
                f"{result['floor_seconds']['update']:.2f} s",
                f"{result['step_seconds']:.2f} s",
                f"{result['share_of_floor']:.0%}",
                f"{result['floor_seconds']['reference']:.2f} s",
            ]
            for result in results
        ],
    )
    names = list(results[0]["breakdown_seconds"])
    parts = markdown(
        ["threads", *names],
        [
            [
                str(result["threads"]),
                *(
                    f"{result['breakdown_seconds'][name] / sum(result['breakdown_seconds'].values()):.0%}"
                    for name in names
                ),
            ]
            for result in results
        ],
    )
    head = f"{options.model}, {options.pairs} pairs a step. Commit {commit()}. {describe_machine()}."
    return f"{head}\n\n{rates}\n\n{parts}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes and prints."""
    options = parse(arguments)
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        results = [measure(options, threads, cache) for threads in options.threads]
    except SideFailed as error:
        print(f"bench.floor: {error}", file=sys.stderr)
        return 1
    name = options.name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-floor-{options.model}"
    options.output.mkdir(parents=True, exist_ok=True)
    written = {
        "benchmark": "floor",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": asdict(describe_machine()),
        "settings": {key: value for key, value in vars(options).items() if key not in ("output", "name")},
        "results": results,
    }
    (options.output / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    (options.output / f"{name}.md").write_text(page(options, results))
    print(page(options, results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
