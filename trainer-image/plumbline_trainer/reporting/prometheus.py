"""The run's Prometheus metrics, computed from the status board when they are asked for; families.py describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plumbline_api.contract import CONTRACT_VERSION, StatusReport, TrainerConfig
from plumbline_trainer.reporting.families import (
    JOB_LABELS,
    PREFIX,
    RUN_FAMILIES,
    STATES,
    TRAINING_FAMILIES,
    UNNAMED,
    Family,
    Sample,
    training_samples,
)
from plumbline_trainer.reporting.status import StatusBoard, Totals

NO_JOB = ("", "", "")
"""Values of `JOB_LABELS` while nobody knows which job it is."""


def job_labels(config: TrainerConfig) -> tuple[str, ...]:
    """Values of `JOB_LABELS`."""
    return (config.kind, config.namespace, config.name)


class RunCollector(Collector):
    """`plumbline_trainer_*` of one run."""

    def __init__(self, board: StatusBoard, job: Sequence[str] = NO_JOB) -> None:
        self._board = board
        self._job = tuple(job)

    def collect(self) -> Iterator[Metric]:
        report = self._board.report()
        samples = run_samples(report, self._board.totals())
        for family in RUN_FAMILIES:
            yield self._family(family, samples.get(family.name, []))
        by_family = training_samples(report.metrics)
        for family in (*(declared.family for declared in TRAINING_FAMILIES), UNNAMED):
            if found := by_family.get(family):
                yield self._family(family, found)

    def _family(self, family: Family, samples: Sequence[Sample]) -> Metric:
        """A family with its samples; it has none while its value is unknown."""
        made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        shown = made(PREFIX + family.name, family.documentation, labels=(*JOB_LABELS, *family.labels))
        for labels, value in samples:
            shown.add_metric([*self._job, *labels], value)
        return shown


def run_samples(report: StatusReport, totals: Totals) -> dict[str, list[Sample]]:
    """Samples of `RUN_FAMILIES`, by their names."""
    checkpoint, best = report.checkpoint, report.best_checkpoint
    single: Mapping[str, float | None] = {
        "attempt": report.attempt,
        "step": report.step,
        "max_steps": report.max_steps,
        "resumed_from_step": report.from_step,
        "steps": totals.steps,
        "last_step_timestamp_seconds": report.last_step_time.timestamp() if report.last_step_time else None,
        "step_duration_seconds": report.step_seconds,
        "eta_seconds": report.eta_seconds,
        "tokens": totals.tokens,
        "tokens_per_second": report.tokens_per_second,
        "score": report.score.value if report.score else None,
        "checkpoint_step": checkpoint.step if checkpoint else None,
        "checkpoint_timestamp_seconds": checkpoint.time.timestamp() if checkpoint else None,
        "checkpoint_write_duration_seconds": totals.checkpoint_seconds,
        "best_checkpoint_step": best.step if best else None,
        "best_checkpoint_value": best.value if best else None,
        "warnings": len(report.warnings),
        **_gpu_memory(),
    }
    return {
        **{name: [((), float(value))] for name, value in single.items() if value is not None},
        "build_info": [((CONTRACT_VERSION, torch.__version__), 1.0)],
        "state": [((state,), float(state == report.state)) for state in STATES],
        "phase_seconds": [((phase,), seconds) for phase, seconds in totals.phase_seconds.items()],
    }


def _gpu_memory() -> dict[str, float]:
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return {}
    return {
        "gpu_memory_allocated_bytes": torch.cuda.memory_allocated(),
        "gpu_memory_peak_bytes": torch.cuda.max_memory_allocated(),
    }


def registry_of(board: StatusBoard, job: Sequence[str] = NO_JOB) -> CollectorRegistry:
    """A registry with the run's metrics and those of the process (memory, CPU, open files)."""
    registry = CollectorRegistry()
    registry.register(RunCollector(board, job))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
