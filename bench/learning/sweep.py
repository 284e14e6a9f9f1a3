"""Which runs there are, and running those that are not stored yet."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.learning.bases import Bases
from bench.learning.jobs import Document, digest, job
from bench.learning.methods import METHODS
from bench.learning.records import Record, Results, record
from bench.learning.tasks import TASKS
from bench.learning.training import Trainer
from bench.machine import commit

SEEDS = (0, 1, 2)
NAMED = ("grpo", "drGrpo", "dapo", "rloo", "ppo")
FAMILIES = ("passAtK", "cispo", "selfEvolving")
"""One method of each family that suits every task."""

MAIN_TASKS = ("arithmetic", "decimal-chain-sum", "programs", "chain-sum")
PROBES = {("arithmetic", "grpo"), ("arithmetic", "passAtK"), ("chain-sum", "grpo"), ("chain-sum", "passAtK")}
"""Runs after which every held-out prompt is sampled, for pass@k."""

PROBE_SAMPLES = 16


@dataclass(frozen=True)
class Planned:
    """One run."""

    task: str
    method: str
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.task, self.method, self.seed)


def plan() -> list[Planned]:
    """All runs, the most important ones first: an interrupted sweep has something of everything."""
    first, others = SEEDS[:1], SEEDS[1:]
    sums, gym_and_code = MAIN_TASKS[:1], MAIN_TASKS[1:]
    ordered = [
        *_runs(sums, (*NAMED, *FAMILIES), SEEDS),
        *_runs(sums, ("grpo-two-groups", "copo-two-groups"), SEEDS),
        *_runs(gym_and_code[:2], NAMED[:1], first),
        *_runs(("tails",), ("grpo", "drGrpo"), SEEDS),
        *_runs(gym_and_code, NAMED, first),
        *_runs(sums, ("dapo-static", "clean-sgd", "noisy-sgd", "backwardCorrection"), SEEDS),
        *_runs(gym_and_code, NAMED, others),
        *_runs(("tails",), ("linearLength",), SEEDS),
        *_runs(gym_and_code, FAMILIES, SEEDS),
        *_runs(sums, ("opo", "gspo", "copo", "grpo-noisy"), SEEDS),
    ]
    return list(dict.fromkeys(ordered))


def _runs(tasks: Iterable[str], methods: Sequence[str], seeds: Sequence[int]) -> list[Planned]:
    return [Planned(task, method, seed) for task in tasks for method in methods for seed in seeds]


def chosen(
    runs: Iterable[Planned], tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int]
) -> list[Planned]:
    """Those of `runs` that are asked for; an empty list asks for all."""
    return [
        run
        for run in runs
        if (not tasks or run.task in tasks)
        and (not methods or run.method in methods)
        and (not seeds or run.seed in seeds)
    ]


class Sweep:
    """Runs what is missing in a file of results."""

    def __init__(self, results: Results, path: Path, trainer: Trainer, bases: Bases) -> None:
        self._results, self._path = results, path
        self._trainer, self._bases = trainer, bases

    def run(self, runs: Sequence[Planned], minutes: float = float("inf")) -> bool:
        """Runs what is missing or was made with another configuration, and stores each result at once.

        No run is begun after `minutes`; returns whether nothing is left.
        """
        deadline = time.monotonic() + 60 * minutes
        for number, planned in enumerate(runs, 1):
            if time.monotonic() > deadline and not self._is_stored(planned):
                return False
            if self._is_stored(planned):
                continue
            made = self._train(planned)
            self._results.records[made.key] = made
            self._results.write(self._path)
            print(
                f"{number}/{len(runs)} {made.task} {made.method} seed {made.seed}: "
                f"{made.before:.1%} -> {made.after:.1%}, {made.cpu_seconds:.0f} CPU s, {made.wall_seconds:.0f} s",
                flush=True,
            )
        return True

    def _is_stored(self, planned: Planned) -> bool:
        stored = self._results.records.get(planned.key)
        return stored is not None and stored.digest == self._digest(planned)

    def _digest(self, planned: Planned) -> str:
        return digest(self._document(planned, Path("output")))

    def _document(self, planned: Planned, output: Path) -> Document:
        task = TASKS[planned.task]
        return job(task, METHODS[planned.method], planned.seed, self._bases.place(task), output)

    def _train(self, planned: Planned) -> Record:
        with tempfile.TemporaryDirectory() as work:
            document = self._document(planned, Path(work) / "model")
            probe = PROBE_SAMPLES if (planned.task, planned.method) in PROBES else 0
            ran = self._trainer.run(document, Path(work), probe=probe)
        return record(planned.key, digest(document), commit(), document, ran)
