"""Metrics of the operator: series of single jobs from their stored status, and how many of them there are."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from plumbline_operator.child_index import ChildIndex
from plumbline_operator.departed import DepartedPods
from plumbline_operator.job_metrics import JOB_FAMILIES, STATES, JobFigures, figures_of, shown_jobs
from plumbline_operator.listed import ListedObjects
from plumbline_operator.metrics import OPERATOR_FAMILIES, OperatorMetrics, WatchActivity
from plumbline_operator.queue import WorkQueue
from plumbline_operator.registry import JobRegistry
from plumbline_operator.resources import JOBS, JobKey
from plumbline_operator.seen import SeenVersions
from plumbline_operator.watching import Watcher
from tests.operator.job_documents import preference_job, stored
from tests.operator.simulated_world import World

STATUS: dict[str, Any] = {
    "phase": "Running",
    "objective": "dpo",
    "gpus": 8,
    "restarts": 2,
    "failures": 1,
    "completionTime": None,
    "progress": {"step": 30, "maxSteps": 40, "percent": 75, "text": "30/40"},
    "checkpoint": {"step": 20, "time": "2030-01-01T00:00:20Z", "uri": "/c", "digest": "sha256:0", "verified": True},
    "conditions": [
        {"type": "Accepted", "status": "True", "reason": "Accepted", "lastTransitionTime": "2030-01-01T00:00:00Z"},
        {"type": "Progressing", "status": "False", "reason": "Stalled", "lastTransitionTime": "2030-01-01T00:00:00Z"},
        {"type": "Healthy", "status": "Unknown", "reason": "Training", "lastTransitionTime": "2030-01-01T00:00:00Z"},
    ],
    "usage": {
        "goodput": 0.75,
        "cost": 12.5,
        "currency": "EUR",
        "states": [
            {"state": "queued", "seconds": 10.0, "gpuSeconds": 0.0},
            {"state": "productive", "seconds": 30.0, "gpuSeconds": 240.0},
            {"state": "stalled", "seconds": 0.0, "gpuSeconds": 0.0},
        ],
    },
}

JOB = {"job_kind": "PreferenceJob", "job_namespace": "team", "job_name": "tune"}


class Operator:
    """The registry as watch events fill it, and what a scrape of it shows."""

    def __init__(self, most_jobs: int = 1000) -> None:
        self.jobs = JobRegistry()
        queue = WorkQueue[JobKey]()
        self.watcher = Watcher(queue, self.jobs, DepartedPods(), ChildIndex(), SeenVersions(), ListedObjects())
        self.metrics = OperatorMetrics(self.jobs, queue, WatchActivity(), most_jobs)

    def see(self, name: str = "tune", status: dict[str, Any] | None = None) -> None:
        job = stored(preference_job(name)) | ({"status": status} if status is not None else {})
        job["metadata"]["creationTimestamp"] = "2030-01-01T00:00:00Z"
        self.watcher.know(JOBS["PreferenceJob"], job)

    def series(self, prefix: str = "plumbline_job_") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        text = generate_latest(self.metrics.registry).decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith(prefix)
        }


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"plumbline_job_{name}", frozenset({**JOB, **labels}.items())


def test_a_job_s_series_are_its_stored_status() -> None:
    operator = Operator()
    operator.see(status=STATUS)
    assert operator.series() == {
        of("info", objective="dpo", runtime="torch-cpu"): 1,
        of("phase", phase="Running"): 1,
        of("condition", condition="Accepted", reason="Accepted"): 1,
        of("condition", condition="Progressing", reason="Stalled"): 0,
        of("created_timestamp_seconds"): 1893456000,
        of("steps"): 30,
        of("max_steps"): 40,
        of("gpus"): 8,
        of("restarts"): 2,
        of("failures"): 1,
        of("checkpoint_timestamp_seconds"): 1893456020,
        of("goodput_ratio"): 0.75,
        **{of("state_seconds", state=state): 0 for state in STATES},
        of("state_seconds", state="queued"): 10,
        of("state_seconds", state="productive"): 30,
        of("cost", currency="EUR"): 12.5,
    }


def test_a_job_that_nobody_has_looked_at_is_pending() -> None:
    operator = Operator()
    operator.see()
    series = operator.series()
    assert series[of("phase", phase="Pending")] == 1
    assert series[of("created_timestamp_seconds")] == 1893456000
    assert of("steps") not in series
    assert of("goodput_ratio") not in series


def test_the_series_of_a_deleted_job_vanish() -> None:
    operator = Operator()
    operator.see("tune", STATUS)
    operator.see("other", STATUS)
    operator.jobs.remove(JobKey("PreferenceJob", "team", "tune"))
    assert {dict(labels)["job_name"] for _, labels in operator.series()} == {"other"}


def test_a_scrape_counts_jobs_while_others_come() -> None:
    """Another thread may get its turn whenever garbage is collected; here a job comes at each collection."""
    registry, numbers = JobRegistry(), itertools.count()

    def a_job_comes(*_: object) -> None:
        key = JobKey("RLVRJob", "team", f"job-{next(numbers)}")
        registry.store(key, "Running")
        registry.describe(key, figures_of(stored(preference_job())))

    for _ in range(500):
        a_job_comes()
    thresholds = gc.get_threshold()
    gc.callbacks.append(a_job_comes)
    gc.set_threshold(20)
    try:
        counted, shown = registry.phases(), registry.figures()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(a_job_comes)
    assert counted["RLVRJob", "Running"] >= 500
    assert len(shown) >= 500
    assert next(numbers) > 500, "jobs came meanwhile"


def test_a_new_status_replaces_the_old_series() -> None:
    operator = Operator()
    operator.see(status=STATUS)
    operator.see(status={**STATUS, "phase": "Complete", "completionTime": "2030-01-01T01:00:00Z", "conditions": []})
    series = operator.series()
    assert series[of("phase", phase="Complete")] == 1
    assert of("phase", phase="Running") not in series
    assert series[of("finished_timestamp_seconds")] == 1893459600
    assert not [name for name, _ in series if name == "plumbline_job_condition"]


def test_what_the_state_machine_writes_can_be_shown() -> None:
    world = World(preference_job())
    world.run_all()
    world.pass_time(60)
    world.end_pod("tune-trainer-1-0", 65)
    world.settle()
    assert world.job is not None
    figures = figures_of(world.job)
    assert figures.phase == "Failed"
    assert ("Failed", True, "DataError") in figures.conditions
    assert figures.finished is not None
    assert figures.objective == "dpo"


def test_only_so_many_jobs_have_series_and_sums_count_all() -> None:
    operator = Operator(most_jobs=3)
    for number in range(4):
        ended = f"2030-01-01T0{number}:00:00Z"
        operator.see(f"done-{number}", {"phase": "Complete", "completionTime": ended, "gpus": 1})
    operator.see("running", {"phase": "Running", "gpus": 4})
    shown = {dict(labels)["job_name"] for _, labels in operator.series()}
    assert shown == {"running", "done-3", "done-2"}
    sums = operator.series("plumbline_operator_")
    running = frozenset({"kind": "PreferenceJob", "phase": "Running"}.items())
    complete = frozenset({"kind": "PreferenceJob", "phase": "Complete"}.items())
    assert sums["plumbline_operator_jobs_without_series", frozenset()] == 2
    assert sums["plumbline_operator_jobs", complete] == 4
    assert (sums["plumbline_operator_gpus", running], sums["plumbline_operator_gpus", complete]) == (4, 4)


def test_jobs_that_have_not_ended_come_before_all_that_have() -> None:
    key = JobKey("RLVRJob", "team", "any")
    jobs = [
        (key, JobFigures(phase="Failed", created=9.0, finished=100.0)),
        (key, JobFigures(phase="Pending", created=1.0)),
        (key, JobFigures(phase="Running", created=2.0)),
    ]
    assert [figures.phase for _, figures in shown_jobs(jobs, 2)] == ["Running", "Pending"]
    assert len(shown_jobs(jobs, 3)) == 3


def test_series_of_a_job_are_few() -> None:
    operator = Operator()
    conditions = [
        {"type": f"Type{number}", "status": "True", "reason": "Accepted", "lastTransitionTime": ""}
        for number in range(12)
    ]
    states = [{"state": state, "seconds": 1.0, "gpuSeconds": 1.0} for state in STATES]
    operator.see(status={**STATUS, "conditions": conditions, "usage": {**STATUS["usage"], "states": states}})
    assert len(operator.series()) <= 40


def test_silent_streams_are_those_that_the_audit_names() -> None:
    operator = Operator()
    operator.metrics.show_silent(["pods", "services", "audit"], lambda: ["services"])
    silent = {
        dict(labels)["resource"]: value
        for (_, labels), value in operator.series("plumbline_operator_watch_silent").items()
    }
    assert silent == {"pods": 0, "services": 1, "audit": 0}


@pytest.mark.parametrize("text", ["yesterday", None, 7])
def test_a_time_that_is_none_is_left_out(text: object) -> None:
    operator = Operator()
    operator.see(status={"phase": "Running", "checkpoint": {"time": text}})
    assert of("checkpoint_timestamp_seconds") not in operator.series()


def test_no_family_is_there_twice() -> None:
    names = [family.shown_name for family in (*JOB_FAMILIES, *OPERATOR_FAMILIES)]
    assert len(set(names)) == len(names)


def test_who_asks_for_a_few_metrics_does_not_make_the_operator_write_the_series_of_all_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = Operator()
    operator.see(status=STATUS)
    monkeypatch.setattr("plumbline_operator.metrics.shown_jobs", lambda *_: pytest.fail("nobody asked for single jobs"))
    few = operator.metrics.registry.restricted_registry(["plumbline_operator_jobs", "plumbline_operator_leader"])
    assert {metric.name for metric in few.collect()} == {"plumbline_operator_jobs", "plumbline_operator_leader"}
