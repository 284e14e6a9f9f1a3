"""The run's Prometheus metrics, computed from the status board when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plumbline_api.contract import CONTRACT_VERSION
from plumbline_trainer.reporting.status import StatusBoard

STATES = ("starting", "evaluating", "training", "checkpointing", "exporting", "stopping", "done")


class RunCollector(Collector):
    """`plumbline_trainer_*`; docs/metrics.md describes each."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        report = self._board.report()
        counters = self._board.counters()
        yield _labelled(
            "plumbline_trainer_build_info",
            "Always 1; versions are in the labels.",
            ("contract", "torch"),
            [((CONTRACT_VERSION, torch.__version__), 1.0)],
        )
        yield _labelled(
            "plumbline_trainer_state",
            "1 for what the trainer is doing, 0 for the rest.",
            ("state",),
            [((state,), float(state == report.state)) for state in STATES],
        )
        yield _gauge("plumbline_trainer_attempt", "Number of the attempt.", report.attempt)
        yield _gauge("plumbline_trainer_step", "Optimizer steps done.", report.step)
        yield _gauge("plumbline_trainer_max_steps", "Optimizer steps in all.", report.max_steps)
        yield _gauge("plumbline_trainer_resumed_from_step", "Step this attempt continued from.", report.from_step)
        yield _gauge("plumbline_trainer_step_seconds", "Median duration of the last steps.", report.step_seconds)
        yield _gauge("plumbline_trainer_eta_seconds", "Expected time to the end.", report.eta_seconds)
        yield _gauge(
            "plumbline_trainer_tokens_per_second", "Tokens processed a second, all ranks.", report.tokens_per_second
        )
        tokens = CounterMetricFamily("plumbline_trainer_tokens", "Tokens processed by this attempt, all ranks.")
        tokens.add_metric([], counters["tokens_total"])
        yield tokens
        yield _labelled(
            "plumbline_trainer_phase_seconds",
            "Duration of each phase of the last step.",
            ("phase",),
            [((phase,), seconds) for phase, seconds in report.phase_seconds.items()],
        )
        yield _labelled(
            "plumbline_trainer_metric",
            "Last value of each metric of training and evaluation.",
            ("name",),
            [((metric.name,), metric.value) for metric in report.metrics],
        )
        yield _labelled(
            "plumbline_trainer_metric_first",
            "Value of each held-out metric in the first evaluation.",
            ("name",),
            [((metric.name,), metric.first) for metric in report.metrics if metric.first is not None],
        )
        yield _gauge("plumbline_trainer_score", "The run in one number.", report.score.value if report.score else None)
        checkpoint = report.checkpoint
        yield _gauge(
            "plumbline_trainer_checkpoint_step",
            "Step of the newest verified checkpoint.",
            checkpoint.step if checkpoint else None,
        )
        yield _gauge(
            "plumbline_trainer_checkpoint_timestamp_seconds",
            "When it was taken, as Unix time.",
            checkpoint.time.timestamp() if checkpoint else None,
        )
        yield _gauge(
            "plumbline_trainer_checkpoint_write_seconds",
            "Duration of the last write of a checkpoint.",
            counters["checkpoint_seconds"],
        )
        best = report.best_checkpoint
        yield _gauge(
            "plumbline_trainer_best_checkpoint_step",
            "Step of the checkpoint with the best held-out value.",
            best.step if best else None,
        )
        yield _gauge("plumbline_trainer_best_checkpoint_value", "That value.", best.value if best else None)
        yield _gauge("plumbline_trainer_warnings", "Number of warnings in the status report.", len(report.warnings))
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            yield _gauge(
                "plumbline_trainer_gpu_memory_allocated_bytes",
                "GPU memory held by tensors, this rank.",
                torch.cuda.memory_allocated(),
            )
            yield _gauge(
                "plumbline_trainer_gpu_memory_peak_bytes",
                "Most GPU memory held by tensors, this rank.",
                torch.cuda.max_memory_allocated(),
            )


def registry_of(board: StatusBoard) -> CollectorRegistry:
    """A registry with the run's metrics and those of the process (memory, CPU, open files)."""
    registry = CollectorRegistry()
    registry.register(RunCollector(board))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def _gauge(name: str, documentation: str, value: float | None) -> Metric:
    """A gauge; without a sample while its value is unknown."""
    family = GaugeMetricFamily(name, documentation)
    if value is not None:
        family.add_metric([], float(value))
    return family


def _labelled(
    name: str, documentation: str, labels: tuple[str, ...], samples: list[tuple[tuple[str, ...], float]]
) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for values, value in samples:
        family.add_metric(list(values), value)
    return family
