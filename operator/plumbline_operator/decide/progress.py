"""How far the run is: from the status report while it runs, from the last words when it ended (pure)."""

from __future__ import annotations

from typing import Any

from plumbline_api.contract import StatusReport, TerminationMessage
from plumbline_api.status import Attempt, JobStatus, MetricValue, Progress
from plumbline_operator.decide.grace import longest_save

_RUNNING_STATES = frozenset({"evaluating", "training", "checkpointing", "exporting", "stopping", "done"})

WARNINGS_KEPT = 16
DAMAGED_CHECKPOINTS_KEPT = 8
WARNING_LIMIT = 1024
"""Characters of one warning."""


def is_training(report: StatusReport | None) -> bool:
    """Whether the trainer has left its start behind."""
    return report is not None and report.state in _RUNNING_STATES


def merge_report(status: JobStatus, attempt: Attempt, report: StatusReport) -> None:
    """Takes a report of this very attempt into the status, in place."""
    status.progress = Progress(
        step=report.step,
        max_steps=report.max_steps,
        percent=percent(report.step, report.max_steps),
        eta_seconds=round(report.eta_seconds) if report.eta_seconds is not None else None,
        tokens_per_second=_significant(report.tokens_per_second),
        step_seconds=_significant(report.step_seconds),
        text=progress_text(report.step, report.max_steps),
    )
    attempt.from_step = report.from_step
    attempt.to_step = report.step
    status.warnings = _merge_warnings(status.warnings, report.warnings, WARNINGS_KEPT)
    _merge_results(status, report)


def _merge_warnings(known: list[str], said: list[str], kept: int) -> list[str]:
    """What was told already, then what is new; of too many the oldest go, but none that the trainer still repeats."""
    said = [text[:WARNING_LIMIT] for text in said]
    merged = list(dict.fromkeys([*known, *said]))
    for text in [text for text in merged if text not in said][: max(0, len(merged) - kept)]:
        merged.remove(text)
    return merged


def merge_last_words(status: JobStatus, attempt: Attempt, words: TerminationMessage) -> None:
    """Takes the trainer's termination message into the status, in place."""
    if words.max_steps:
        status.progress = Progress(
            step=words.step,
            max_steps=words.max_steps,
            percent=percent(words.step, words.max_steps),
            tokens_per_second=status.progress.tokens_per_second if status.progress else None,
            step_seconds=status.progress.step_seconds if status.progress else None,
            text=progress_text(words.step, words.max_steps),
        )
        attempt.to_step = words.step
    _merge_results(status, words)
    if words.output is not None:
        status.output = words.output


def _merge_results(status: JobStatus, said: StatusReport | TerminationMessage) -> None:
    # The trainer says what it knows; what it does not know yet after a restart stays as it was.
    if said.metrics:
        # The status is a map by name; the API server refuses a name that is there twice.
        status.metrics = list({metric.name: metric for metric in said.metrics}.values())
    if said.score is not None:
        status.score = score_text(said.score)
    if said.checkpoint is not None and said.checkpoint.verified:
        status.checkpoint = said.checkpoint
        status.save_seconds = longest_save(status.save_seconds, said.checkpoint.save_seconds)
    status.damaged_checkpoints = _merge_warnings(
        status.damaged_checkpoints, said.damaged_checkpoints, DAMAGED_CHECKPOINTS_KEPT
    )
    if said.best_checkpoint is not None:
        status.best_checkpoint = said.best_checkpoint
    if said.inputs is not None:
        status.inputs = said.inputs
    if said.data is not None:
        status.data = said.data


def percent(step: int, max_steps: int) -> int:
    """Whole percent, rounded down, so that 100 means done."""
    return min(100, 100 * step // max_steps) if max_steps else 0


def progress_text(step: int, max_steps: int) -> str:
    return f"{step}/{max_steps}"


def score_text(score: MetricValue) -> str:
    """At most four significant digits."""
    return f"{score.value:.4g}"


def _significant(value: float | None) -> float | None:
    """Four significant digits: figures that flicker in the tenth digit would make every status differ."""
    return float(f"{value:.4g}") if value is not None else None


def is_urgent(old: JobStatus, new: JobStatus) -> bool:
    """Whether anything but what changes all the time is new: figures, and the words of a condition that stays as it is.

    A quota's message tells how much is used at the moment, and a scheduler's how many nodes fit: in a busy namespace
    they differ whenever one asks.
    """
    return _steady_part(old) != _steady_part(new)


def _steady_part(status: JobStatus) -> dict[str, Any]:
    document = status.to_document()
    for flickering in ("progress", "metrics", "score", "usage", "health", "checkpoint", "bestCheckpoint"):
        document.pop(flickering, None)
    for attempt in document.get("attempts", []):
        attempt.pop("toStep", None)
        attempt.pop("time", None)
        attempt.pop("scheduledTime", None)  # the pods themselves tell it until the next write
    for condition in document.get("conditions", []):
        condition.pop("message", None)
    return document
