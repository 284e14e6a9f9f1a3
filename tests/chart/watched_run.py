"""A real run of both kinds of job without a cluster, watched by a real Prometheus.

The trainers are processes of their own. The operator's decisions and metrics are the real ones; the API server between
them is that of the operator's tests (`tests.operator.simulated_world`), which gets the trainers' own status reports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from charts.dashboards.queries import Answers
from cluster.control_plane import free_port, wait_until
from cluster.prometheus import Prometheus
from plumbline_api.contract import StatusReport
from plumbline_operator.job_metrics import figures_of
from plumbline_operator.metrics import OperatorMetrics, WatchActivity
from plumbline_operator.queue import WorkQueue
from plumbline_operator.registry import JobRegistry
from plumbline_operator.resources import JobKey
from tests.operator.job_documents import RUNTIME, preference_job, rlvr_job
from tests.operator.simulated_world import World

NAMESPACE = "team"
STEPS = 40
SCRAPE_SECONDS = 0.5
PRICED = {**RUNTIME, "spec": {**RUNTIME["spec"], "prices": {"gpuHour": 2.0, "podHour": 0.1}}}

PAIRS = [
    {"prompt": f"{a}+{b}=?", "chosen": str(a + b), "rejected": str(a + b + 1 + a % 3)}
    for a in range(5)
    for b in range(4)
]
PROBLEMS = [{"prompt": f"{a}+{b}=?", "answer": str(a + b)} for a in range(5) for b in range(4)]

COMMON: dict[str, Any] = {"evaluation": {"everySteps": 10}, "checkpoint": {"everySteps": 10}}
PREFERENCE: dict[str, Any] = {
    "objective": {"dpo": {"beta": 0.5}},
    "training": {"steps": STEPS, "batchSize": 8, "maxPromptTokens": 32, "maxCompletionTokens": 8},
    **COMMON,
}
RLVR: dict[str, Any] = {
    "objective": {"grpo": {}},
    "kl": {"loss": {"coefficient": 0.01}},
    "training": {"steps": STEPS, "batchSize": 16, "maxPromptTokens": 32, "maxCompletionTokens": 6},
    "rollout": {"groupSize": 4, "updatesPerRollout": 2},
    "rewards": [{"name": "digits", "verifier": {"regex": {"pattern": "[0-9]", "mode": "search"}}}],
    **COMMON,
}


@dataclass
class Trainer:
    """One trainer process and the operator's view of its job."""

    key: JobKey
    port: int
    process: subprocess.Popen[bytes]
    world: World

    def report(self) -> StatusReport | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/status", timeout=5) as answer:
                return StatusReport.model_validate_json(answer.read())
        except OSError:
            return None

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())


class WatchedRun:
    """Both trainers and the operator's metrics, while the run goes on and afterwards."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.jobs = JobRegistry()
        self.metrics = OperatorMetrics(self.jobs, WorkQueue[JobKey](), activity := WatchActivity())
        self.metrics.show_silent(["pods", "audit"], list)
        activity.touch("pods")
        self.port = free_port()
        self.metrics.serve(self.port)
        self.trainers = [
            self._start(folder, model, "PreferenceJob", "pairs", PREFERENCE, PAIRS),
            self._start(folder, model, "RLVRJob", "sums", RLVR, PROBLEMS),
        ]
        self.broken = World(preference_job("broken"))
        self.texts: dict[str, str] = {}
        """The last scrape of each trainer, by kind."""

    def configuration(self) -> dict[str, Any]:
        """prometheus.yml with both trainers and the operator."""
        jobs = {"plumbline-operator": [self.port], "plumbline-jobs": [trainer.port for trainer in self.trainers]}
        return {
            "global": {"scrape_interval": f"{int(1000 * SCRAPE_SECONDS)}ms"},
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
                for name, ports in jobs.items()
            ],
        }

    def follow(self) -> None:
        """Plays the operator until both trainers have ended."""
        self.broken.now = datetime.now(UTC)
        self.broken.run_all()
        self.broken.end_pod("broken-trainer-1-0", 65)
        self._reconcile(JobKey("PreferenceJob", NAMESPACE, "broken"), self.broken)
        while running := [trainer for trainer in self.trainers if trainer.process.poll() is None]:
            for trainer in running:
                trainer.world.now = datetime.now(UTC)
                report = trainer.report()
                if report is not None and report.step > 0:
                    self.texts[trainer.key.kind] = trainer.metrics()
                trainer.world.report = report
                self._reconcile(trainer.key, trainer.world)
            time.sleep(SCRAPE_SECONDS / 2)
        for trainer in self.trainers:
            assert trainer.process.returncode == 0, f"{trainer.key}: {trainer.process.returncode}"

    def _reconcile(self, key: JobKey, world: World) -> None:
        started = time.monotonic()
        world.settle()
        self.metrics.reconciled(key.kind, "settled", time.monotonic() - started)
        assert world.job is not None
        self.jobs.store(key, world.status.phase)
        self.jobs.describe(key, figures_of(world.job))

    def _start(
        self, folder: Path, model: Path, kind: str, name: str, spec: dict[str, Any], rows: list[dict[str, Any]]
    ) -> Trainer:
        home = folder / name
        home.mkdir(parents=True)
        data = home / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"source": {"path": {"path": str(data)}}}
        document = {
            "apiVersion": "plumbline.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": "uid-1"},
            "spec": {
                "runtimeRef": {"name": "torch-cpu"},
                "model": {"source": {"path": {"path": str(model)}}, "dtype": "float32"},
                "data": {"train": source, "evaluation": source},
                "output": {"path": str(home / "output")},
                **spec,
            },
        }
        (home / "job.json").write_text(json.dumps(document))
        port = free_port()
        command = [sys.executable, "-m", "plumbline_trainer", "--config", str(home / "job.json"), "--port", str(port)]
        command += ["--termination-log", str(home / "last-words")]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        make = preference_job if kind == "PreferenceJob" else rlvr_job
        world = World(make(name, NAMESPACE), PRICED)
        world.now = datetime.now(UTC)  # the trainers' own clock: their reports say when what happened
        world.run_all()
        return Trainer(JobKey(kind, NAMESPACE, name), port, process, world)


@contextmanager
def watched_run(folder: Path, model: Path) -> Iterator[tuple[WatchedRun, Answers]]:
    """Runs to the end; yields the run and the Prometheus that has seen it."""
    start = time.time()
    run = WatchedRun(folder / "jobs", model)
    try:
        with Prometheus(folder / "prometheus") as prometheus:
            prometheus.start(run.configuration())
            run.follow()
            wait_until(lambda: bool(prometheus.query('plumbline_job_phase{job_name="broken"}')), "the last scrape", 30)
            variables = {
                "fleet": {"namespace": NAMESPACE},
                "preference-job": {"namespace": NAMESPACE, "name": "pairs"},
                "rlvr-job": {"namespace": NAMESPACE, "name": "sums"},
            }
            yield run, Answers(prometheus, start, time.time(), variables, "5s")
    finally:
        for trainer in run.trainers:
            if trainer.process.poll() is None:
                trainer.process.kill()
                trainer.process.wait()
