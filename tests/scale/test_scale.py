"""A small version of `make scale`: everything is measured, with few jobs, and nothing is created twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.scale.bars import BARS, missed
from tests.scale.measurement import measure_alive, measure_burst, measure_life, quantile, seed_jobs
from tests.scale.world import ScaleWorld

JOBS, MORE, WORKERS = 50, 5, 4


def say(line: str) -> None:
    print(line)


@pytest.mark.control_plane
async def test_few_jobs_at_once(tmp_path: Path) -> None:
    world = ScaleWorld(tmp_path / "plane", namespaces=2)
    world.start()
    try:
        world.start_kubelet()
        life = await measure_life(world, tmp_path, WORKERS, 3, say)
        burst = await measure_burst(world, tmp_path, WORKERS, JOBS, MORE, say)
    finally:
        world.stop()
    assert life["writes_a_life"] <= 12
    assert life["writes_by_verb_and_resource"]["apply pods"] == 1
    assert burst["at_once"]["jobs_a_minute"] > 0
    assert burst["duplicate_pods"] == 0
    assert burst["one_more"]["job_to_children_seconds"]["p50"] > 0


@pytest.mark.control_plane
async def test_an_operator_that_starts_finds_running_jobs_and_changes_nothing(tmp_path: Path) -> None:
    world = ScaleWorld(tmp_path / "plane", namespaces=2)
    world.start()
    try:
        world.start_kubelet()
        await seed_jobs(world, tmp_path, JOBS, say)
        world.stop_kubelet()
        world.start_kubelet(bind_pods=False)
        alive = await measure_alive(world, tmp_path, WORKERS, JOBS, say, steady_seconds=2)
    finally:
        world.stop()
    assert alive["steady"]["peak_mebibytes"] < 250
    for start in alive["starts"]:
        assert start["seconds_to_converged"] < 60
        # A few reads for each job, and no write but of progress.
        assert start["reads"] < 12 * JOBS + 100
        assert start["writes"] <= 2 * JOBS


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile(sorted(float(number) for number in range(1, 101)), 0.99) == 99.0


def test_bars_tell_what_is_missed() -> None:
    burst: dict[str, Any] = {
        "at_once": {"jobs_a_minute": 239.0},
        "one_more": {"job_to_children_seconds": {"p99": 2.0}},
        "duplicate_pods": 1,
    }
    assert len(missed({"burst": burst})) == 2
    burst["at_once"]["jobs_a_minute"], burst["duplicate_pods"] = 240.0, 0
    assert missed({"burst": burst}) == []
    assert {bar.part for bar in BARS} == {"life", "burst", "alive"}
