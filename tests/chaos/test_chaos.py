"""The short form of `make chaos`: a dozen disturbances, one of each kind, drawn with a printed seed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.paths import kubeconfig_path
from scripts.deployment import ROOT, Cluster, build_images, install_operator
from tests.chaos.disturbances import DISTURBANCES, draw
from tests.chaos.observer import PodObserver, documents
from tests.chaos.run import run_chaos, summary


def test_every_kind_of_disturbance_is_drawn_and_a_seed_repeats_the_order() -> None:
    names = draw(random.Random(3), 12)
    assert sorted(names) == sorted(DISTURBANCES)
    assert names == draw(random.Random(3), 12) != draw(random.Random(4), 12)
    assert len(draw(random.Random(3), 100)) == 100
    assert set(draw(random.Random(3), 100)) == set(DISTURBANCES)
    assert len(draw(random.Random(3), 250)) == 250


def pod(name: str, uid: str, attempt: int, phase: str = "Running") -> dict[str, Any]:
    labels = {"plumbline.dev/attempt": str(attempt), "plumbline.dev/rank": "0"}
    metadata = {"name": name, "uid": uid, "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "status": {"phase": phase}}


class Unused:
    kubectl_path = kubeconfig = ""


@pytest.mark.parametrize(
    ("events", "violation"),
    [
        ([("ADDED", pod("a", "1", 1)), ("DELETED", pod("a", "1", 1)), ("ADDED", pod("b", "2", 2))], ""),
        ([("ADDED", pod("a", "1", 1)), ("MODIFIED", pod("a", "1", 1, "Failed")), ("ADDED", pod("b", "2", 2))], ""),
        ([("ADDED", pod("a", "1", 1)), ("ADDED", pod("b", "2", 2))], "pods of two attempts may run at once"),
        ([("ADDED", pod("a", "1", 1)), ("ADDED", pod("a2", "2", 1))], "2 pods may run at once"),
        (
            [("ADDED", pod("b", "1", 2)), ("DELETED", pod("b", "1", 2)), ("ADDED", pod("a", "2", 1))],
            "a of attempt 1 was created after attempt 2 had begun",
        ),
    ],
    ids=["replaced", "ended", "overlapping gangs", "duplicate", "older attempt"],
)
def test_the_observer_sees_what_must_not_be(events: list[tuple[str, dict[str, Any]]], violation: str) -> None:
    observer = PodObserver(Unused(), "namespace", "job")  # type: ignore[arg-type]
    for kind, document in events:
        observer.see(kind, document)
    assert bool(observer.violations) == bool(violation)
    assert violation in "".join(observer.violations)


@pytest.mark.parametrize("indent", [None, 4])
def test_watch_events_are_read_however_they_are_printed(indent: int | None) -> None:
    events = [{"type": "ADDED", "object": pod("a", "1", 1)}, {"type": "DELETED", "object": pod("a", "1", 1)}]
    lines = "".join(json.dumps(event, indent=indent) + "\n" for event in events).splitlines(keepends=True)
    assert list(documents(lines)) == events


@pytest.mark.e2e
def test_a_disturbed_job_ends_with_the_same_model() -> None:
    """Set PLUMBLINE_CHAOS_SEED to repeat the choices of an earlier run."""
    if Path(str(kubeconfig_path())) != Path(Cluster.local().kubeconfig):
        pytest.skip("needs the cluster of plain processes: it kills parts of it")
    cluster, images = Cluster.local(), build_images()
    install_operator(cluster, images)
    model = ROOT / ".tiny-model"
    builder = ROOT / "examples" / "tiny-model" / "build.py"
    subprocess.run([sys.executable, str(builder), "--output", str(model)], cwd=ROOT, check=True)
    seed = int(os.environ.get("PLUMBLINE_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    result = run_chaos(cluster, images, model, kills=12, seed=seed)
    print(summary(result))
    assert not result.problems, summary(result)
