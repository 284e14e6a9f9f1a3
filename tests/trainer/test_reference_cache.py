"""Log-probabilities of the reference are computed once for a model and rows, whatever happens to the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.modeling.reference_cache import FOLDER, ReferenceCache, entry_name
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks import preference_models
from plumbline_trainer.tasks.build import build_task
from plumbline_trainer.tasks.preference import PreferenceTask

PAIRS = [{"prompt": f"{i}+{i}=", "chosen": "a" * (1 + i), "rejected": "cd"} for i in range(6)]
SEQUENCES = [TokenSequence([1, 2], [3]), TokenSequence([1], [2, 3])]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every pass over a data set under the reference."""
    seen: list[int] = []
    score = preference_models.score_rows

    def counted(function: Any, rows: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(len(rows))
        return score(function, rows, *arguments, **options)

    monkeypatch.setattr(preference_models, "score_rows", counted)
    return seen


def task_of(config: Any) -> PreferenceTask:
    stop = StopRequest()
    task = build_task(config, Ranks(stop, torch.device("cpu")), stop)
    assert isinstance(task, PreferenceTask)
    return task


def test_an_entry_is_named_by_everything_that_its_numbers_depend_on() -> None:
    name = entry_name("sha256:1", torch.float32, SEQUENCES, by_token=False)
    assert entry_name("sha256:1", torch.float32, SEQUENCES, by_token=False) == name
    moved = [TokenSequence([1, 2, 3], []), TokenSequence([1], [2, 3])]
    others = [
        entry_name("sha256:2", torch.float32, SEQUENCES, by_token=False),
        entry_name("sha256:1", torch.bfloat16, SEQUENCES, by_token=False),
        entry_name("sha256:1", torch.float32, SEQUENCES, by_token=True),
        entry_name("sha256:1", torch.float32, SEQUENCES[::-1], by_token=False),
        entry_name("sha256:1", torch.float32, moved, by_token=False),
    ]
    assert len({name, *others}) == 6


def test_what_was_written_is_read_to_the_bit(tmp_path: Path) -> None:
    cache = ReferenceCache(str(tmp_path))
    assert cache.read("0") is None
    numbers = torch.tensor([-1.5, -torch.pi])
    cache.write("0", numbers)
    found = ReferenceCache(str(tmp_path)).read("0")
    assert found is not None and torch.equal(found, numbers)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["0.safetensors"], "nothing partial is left"


def test_the_folder_can_be_one_of_several_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "shared"))
    ReferenceCache(str(tmp_path / "one")).write("0", torch.zeros(1))
    assert ReferenceCache(str(tmp_path / "other")).read("0") is not None


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    cache = ReferenceCache(str(tmp_path))
    cache.write("0", torch.zeros(1))
    assert cache.read("0") is None


@pytest.mark.parametrize("objective", [{"dpo": {}}, {"ldDpo": {}}, {"kto": {}}], ids=lambda o: next(iter(o)))
def test_a_second_start_computes_nothing(
    objective: dict[str, Any], passes: list[int], preference_config: Any, write_rows: Any
) -> None:
    rows = PAIRS
    if "kto" in objective:
        rows = [
            {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0} for i, row in enumerate(PAIRS)
        ]
    config = preference_config(objective, write_rows(rows))
    first = task_of(config)
    assert passes, "the first start computes"
    passes.clear()
    second = task_of(config)
    assert passes == []
    assert first.train.reference is not None and second.train.reference is not None
    assert torch.equal(first.train.reference, second.train.reference)


def test_a_damaged_entry_is_computed_again(
    passes: list[int], preference_config: Any, write_rows: Any, tmp_path: Path
) -> None:
    config = preference_config({"dpo": {}}, write_rows(PAIRS))
    expected = task_of(config).train.reference
    (entry,) = (tmp_path / "checkpoints" / FOLDER).iterdir()
    entry.write_bytes(entry.read_bytes()[:-3])
    passes.clear()
    found = task_of(config).train.reference
    assert passes == [len(PAIRS)]
    assert found is not None and expected is not None and torch.equal(found, expected)
    passes.clear()
    task_of(config)
    assert passes == [], "and kept"


def test_other_rows_are_other_entries(passes: list[int], preference_config: Any, write_rows: Any) -> None:
    task_of(preference_config({"dpo": {}}, write_rows(PAIRS)))
    passes.clear()
    task_of(preference_config({"dpo": {}}, write_rows(PAIRS[1:])))
    assert passes == [len(PAIRS) - 1]


@pytest.mark.parametrize("objective", [{"simpo": {}}, {"orpo": {}}, {"rewardModel": {}}], ids=lambda o: next(iter(o)))
def test_objectives_without_a_reference_compute_and_load_none(
    objective: dict[str, Any],
    passes: list[int],
    preference_config: Any,
    write_rows: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a reference was opened")

    monkeypatch.setattr(preference_models, "open_reference", refuse)
    task = task_of(preference_config(objective, write_rows(PAIRS)))
    assert passes == []
    assert task.train.reference is None
