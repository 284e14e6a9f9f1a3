"""Checkpoints: atomic, verified, kept by retention, and safe from a full disk."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from plumbline_trainer.checkpoint.manifest import MANIFEST_NAME, Manifest
from plumbline_trainer.checkpoint.store import FILES, CheckpointStore, Snapshot
from plumbline_trainer.failures import CheckpointUnreadable, DiskFull, InfrastructureError


def snapshot(step: int, size: int = 4) -> Snapshot:
    return Snapshot(
        {"weight": torch.full((size,), float(step))},
        {"weight/exp_avg": torch.full((size,), 0.5), "weight/step": torch.tensor(float(step))},
        {"values": {}, "groups": [{}]},
        {"step": step, "task": {"position": step}},
        {"average": torch.full((size,), 0.25)},
    )


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2, warn=warnings.append)


def test_what_was_saved_is_what_is_loaded(store: CheckpointStore) -> None:
    saved = store.save(40, snapshot(40))
    found = store.newest_verified()
    assert found == saved
    assert found.step == 40
    assert found.verified
    assert found.uri == f"{store.directory}/step-00000040"
    loaded = store.load(40)
    assert torch.equal(loaded.parameters["weight"], torch.full((4,), 40.0))
    assert loaded.optimizer_tensors.keys() == {"weight/exp_avg", "weight/step"}
    assert loaded.state == {"step": 40, "task": {"position": 40}}
    assert torch.equal(loaded.task_tensors["average"], torch.full((4,), 0.25))


def age(checkpoint: Path, seconds: float) -> None:
    """Makes a checkpoint so old, as its manifest tells it."""
    manifest = Manifest.read(checkpoint)
    older = dataclasses.replace(manifest, time=manifest.time - timedelta(seconds=seconds))
    (checkpoint / MANIFEST_NAME).write_bytes(older.encode())


def test_older_checkpoints_stay_until_they_are_too_old(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=1, keep_within_seconds=3600)
    for step in (1, 2, 3):
        store.save(step, snapshot(step))
    assert names_in(store.directory) == ["step-00000001", "step-00000002", "step-00000003"]
    age(store.directory / "step-00000001", 4000)
    age(store.directory / "step-00000002", 3000)
    store.save(4, snapshot(4))
    assert names_in(store.directory) == ["step-00000002", "step-00000003", "step-00000004"]
    for step in (2, 3, 4):
        age(store.directory / f"step-0000000{step}", 4000)
    store.save(5, snapshot(5))
    assert names_in(store.directory) == ["step-00000005"], "the newest stays at any age"


def test_the_status_tells_the_size_of_its_files(store: CheckpointStore) -> None:
    saved = store.save(7, snapshot(7))
    folder = store.directory / "step-00000007"
    assert saved.size_bytes == sum((folder / name).stat().st_size for name in FILES)


def test_a_checkpoint_is_nothing_but_its_documented_files(store: CheckpointStore) -> None:
    store.save(1, snapshot(1))
    assert names_in(store.directory) == ["step-00000001"]
    assert names_in(store.directory / "step-00000001") == sorted([*FILES, MANIFEST_NAME])
    manifest = json.loads((store.directory / "step-00000001" / MANIFEST_NAME).read_text())
    assert manifest["files"].keys() == set(FILES)


def test_its_files_can_be_read_by_whom_the_umask_allows(store: CheckpointStore) -> None:
    store.save(1, snapshot(1))
    modes = {path.stat().st_mode & 0o777 for path in (store.directory / "step-00000001").iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {0o666 & ~umask}


def test_no_checkpoint_is_no_error(store: CheckpointStore) -> None:
    assert store.newest_verified() is None
    store.directory.mkdir()
    assert store.newest_verified() is None


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_newest_checkpoint_is_passed_over_with_a_warning(
    name: str, store: CheckpointStore, warnings: list[str]
) -> None:
    store.save(10, snapshot(10))
    store.save(20, snapshot(20))
    damaged = store.directory / "step-00000020" / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    found = store.newest_verified()
    assert found is not None
    assert found.step == 10
    assert len(warnings) == 1
    assert "step-00000020 is damaged and was passed over" in warnings[0]
    assert name in warnings[0]


def test_a_flipped_bit_is_found_though_the_size_is_right(store: CheckpointStore, warnings: list[str]) -> None:
    store.save(10, snapshot(10))
    store.save(20, snapshot(20))
    damaged = store.directory / "step-00000020" / "parameters.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    found = store.newest_verified()
    assert found is not None
    assert found.step == 10
    assert "the digest of parameters.safetensors differs" in warnings[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"formatVersion": 99}', b'{"formatVersion": 1}'])
def test_a_malformed_manifest_is_damage(content: bytes, store: CheckpointStore, warnings: list[str]) -> None:
    store.save(10, snapshot(10))
    store.save(20, snapshot(20))
    (store.directory / "step-00000020" / MANIFEST_NAME).write_bytes(content)
    found = store.newest_verified()
    assert found is not None
    assert found.step == 10
    assert MANIFEST_NAME in warnings[0]


def test_a_missing_file_or_manifest_is_damage(store: CheckpointStore, warnings: list[str]) -> None:
    for step in (10, 20):
        store.save(step, snapshot(step))
    (store.directory / "step-00000020" / "state.json").unlink()
    assert store.newest_verified().step == 10  # type: ignore[union-attr]
    assert "state.json is missing" in warnings[0]
    (store.directory / "step-00000010" / MANIFEST_NAME).unlink()
    with pytest.raises(CheckpointUnreadable, match="none of the 2 checkpoints"):
        store.newest_verified()


def test_starting_over_when_nothing_verifies_is_refused(store: CheckpointStore) -> None:
    store.save(10, snapshot(10))
    (store.directory / "step-00000010" / "state.json").write_text("{}")
    with pytest.raises(CheckpointUnreadable, match="none of the 1 checkpoints"):
        store.newest_verified()


def test_a_copy_under_another_name_does_not_count(store: CheckpointStore, warnings: list[str]) -> None:
    store.save(10, snapshot(10))
    (store.directory / "step-00000010").rename(store.directory / "step-00000099")
    with pytest.raises(CheckpointUnreadable):
        store.newest_verified()
    assert "is about step 10" in warnings[0]


def test_retention_keeps_the_newest(store: CheckpointStore) -> None:
    for step in (10, 20, 30, 40):
        store.save(step, snapshot(step))
    assert names_in(store.directory) == ["step-00000030", "step-00000040"]


def test_retention_never_counts_a_damaged_checkpoint(store: CheckpointStore) -> None:
    store.save(10, snapshot(10))
    store.save(40, snapshot(40))
    (store.directory / "step-00000040" / "state.json").write_text("")
    assert store.newest_verified().step == 10  # type: ignore[union-attr]
    store.save(20, snapshot(20))
    assert names_in(store.directory) == ["step-00000010", "step-00000020", "step-00000040"]
    assert store.newest_verified().step == 20  # type: ignore[union-attr]


def test_retention_never_deletes_the_best(store: CheckpointStore) -> None:
    store.save(10, snapshot(10), best=10)
    for step in (20, 30, 40):
        store.save(step, snapshot(step), best=10)
    assert names_in(store.directory) == ["step-00000010", "step-00000030", "step-00000040"]
    store.save(50, snapshot(50), best=50)
    assert names_in(store.directory) == ["step-00000040", "step-00000050"]


def test_the_parameters_of_one_checkpoint_are_verified_before_they_are_read(store: CheckpointStore) -> None:
    store.save(10, snapshot(10))
    store.save(20, snapshot(20))
    assert torch.equal(store.load_parameters(10)["weight"], torch.full((4,), 10.0))
    content = bytearray((store.directory / "step-00000010" / "parameters.safetensors").read_bytes())
    content[-1] ^= 1
    (store.directory / "step-00000010" / "parameters.safetensors").write_bytes(content)
    with pytest.raises(CheckpointUnreadable, match=r"step-00000010 cannot be used: the digest of parameters"):
        store.load_parameters(10)
    with pytest.raises(CheckpointUnreadable, match=r"step-00000015 cannot be used"):
        store.load_parameters(15)


def test_reaching_a_damaged_step_again_replaces_it(store: CheckpointStore) -> None:
    store.save(10, snapshot(10))
    store.save(20, snapshot(20))
    (store.directory / "step-00000020" / "state.json").write_text("")
    store.newest_verified()
    store.save(20, snapshot(20))
    assert store.newest_verified().step == 20  # type: ignore[union-attr]


def test_what_a_killed_process_left_behind_is_no_checkpoint_and_is_cleared(store: CheckpointStore) -> None:
    store.save(10, snapshot(10))
    for name in (".step-00000020.partial", ".step-00000005.deleted"):
        (store.directory / name).mkdir()
        (store.directory / name / "parameters.safetensors").write_bytes(b"half")
    assert store.newest_verified().step == 10  # type: ignore[union-attr]
    store.save(20, snapshot(20))
    assert names_in(store.directory) == ["step-00000010", "step-00000020"]


def test_an_optimizer_or_a_task_without_tensors_is_saved_too(store: CheckpointStore) -> None:
    store.save(1, Snapshot({"weight": torch.zeros(1)}, {}, {"values": {}, "groups": [{}]}, {"step": 1}))
    assert store.newest_verified() is not None
    assert store.load(1).optimizer_tensors == {}
    assert store.load(1).task_tensors == {}


def test_a_folder_that_cannot_be_written_is_an_infrastructure_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = CheckpointStore(tmp_path / "file" / "checkpoints", keep=1)
    with pytest.raises(InfrastructureError, match="writing checkpoint"):
        store.save(1, snapshot(1))


def test_a_full_disk_leaves_older_checkpoints_as_they_are(small_volume: Path) -> None:
    store = CheckpointStore(small_volume / "checkpoints", keep=2)
    store.save(10, snapshot(10))
    with pytest.raises(DiskFull, match=r"writing checkpoint .*step-00000020: the volume is full"):
        store.save(20, snapshot(20, size=2**19))
    assert names_in(store.directory) == ["step-00000010"]
    assert store.newest_verified().step == 10  # type: ignore[union-attr]
    store.save(30, snapshot(30))
    assert store.newest_verified().step == 30  # type: ignore[union-attr]


def test_a_disk_that_fills_up_in_the_small_files_is_full_too(small_volume: Path) -> None:
    store = CheckpointStore(small_volume / "checkpoints", keep=2)
    store.save(10, snapshot(10))
    filler = small_volume / "filler"
    free = shutil.disk_usage(small_volume).free
    filler.write_bytes(bytes(free - 3 * 4096))
    with pytest.raises(DiskFull):
        store.save(20, snapshot(20))
    assert store.newest_verified().step == 10  # type: ignore[union-attr]


def test_the_digest_stands_for_all_files(store: CheckpointStore) -> None:
    first = store.save(1, snapshot(1))
    second = CheckpointStore(store.directory.parent / "other", keep=1).save(1, snapshot(1, size=5))
    assert first.digest != second.digest
    assert first.digest == Manifest.read(store.directory / "step-00000001").digest
