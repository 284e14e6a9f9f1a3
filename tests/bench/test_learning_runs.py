"""A sweep of the learning benchmark with the real trainer, on a model that takes no time."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.learning import sweep as sweeping
from bench.learning.corpora import write_rows
from bench.learning.jobs import Place
from bench.learning.records import Results
from bench.learning.sweep import Planned, Sweep
from bench.learning.tasks import TASKS
from bench.learning.training import RunFailed, Trainer

TINY_MODEL = Path(__file__).resolve().parents[2] / "examples" / "tiny-model"
pytestmark = pytest.mark.slow

RUN = Planned("arithmetic", "grpo", 0)


class OnePlace:
    """In place of base models that would have to be trained."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def place(self, task: Any) -> Place:
        return self._place


class NoTrainer:
    """A trainer that nobody should ask."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("a run was made again")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("learning")
    rows = [{"prompt": f"What is {n} + 1?", "completion": str(n + 1), "answer": str(n + 1)} for n in range(8)]
    write_rows(folder / "rows.jsonl", rows)
    sys.path.insert(0, str(TINY_MODEL))
    try:
        from make_tokenizer import write_untrained_model
    finally:
        sys.path.remove(str(TINY_MODEL))
    write_untrained_model(folder / "rows.jsonl", folder / "model", 0)
    return Place(folder / "model", folder / "rows.jsonl", folder / "rows.jsonl")


def sweep(place: Place, path: Path, trainer: Any) -> Sweep:
    return Sweep(Results.read(path), path, trainer, OnePlace(place))  # type: ignore[arg-type]


def test_a_sweep_stores_its_runs_and_goes_on_where_it_was(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(TASKS["arithmetic"], steps=4, prompts=2, held_out=4, evaluations=2)
    monkeypatch.setitem(sweeping.TASKS, "arithmetic", small)
    monkeypatch.setattr(sweeping, "PROBE_SAMPLES", 2)
    path = tmp_path / "results.json"
    assert not sweep(place, path, NoTrainer()).run([RUN], minutes=-1), "there is no time left for it"

    trainer = Trainer()
    assert sweep(place, path, trainer).run([RUN])
    [stored] = Results.read(path)
    assert [step for step, _ in stored.held_out] == [0, 2, 4]
    assert len(stored.curves["accuracy"]) == 4
    assert stored.completions_per_step == 8
    assert stored.probe is not None and sum(stored.probe["right_of_prompts"]) == 4
    assert stored.cpu_seconds > 0 and stored.tokens > 0

    assert sweep(place, path, NoTrainer()).run([RUN])
    monkeypatch.setitem(sweeping.TASKS, "arithmetic", replace(small, steps=6))
    with pytest.raises(AssertionError, match="made again"):
        sweep(place, path, NoTrainer()).run([RUN])

    monkeypatch.setitem(sweeping.TASKS, "arithmetic", replace(small, max_prompt_tokens=1))
    with pytest.raises(RunFailed, match="arithmetic-grpo-0 ended with exit code"):
        sweep(place, path, trainer).run([RUN])
