"""What the run says about itself: written by the training thread, read by the HTTP server at any time."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from plumbline_api.contract import StallReport, StatusReport
from plumbline_api.status import BestCheckpointStatus, CheckpointStatus, DataStatus, Health, Inputs, MetricValue
from plumbline_trainer.reporting.run_clock import RunClock
from plumbline_trainer.reporting.termination import shorten

State = Literal["starting", "evaluating", "training", "checkpointing", "exporting", "stopping", "done"]

EVALUATION_PREFIX = "evaluation/"
"""Before the names of held-out metrics, which may be measured on training rows under the same name."""

MAX_METRICS = 64
MAX_WARNINGS = 16
MAX_DAMAGED = 8
DAMAGE_CHARACTERS = 400
"""Of one damaged checkpoint: two of them fit into the last words."""
STEPS_REMEMBERED = 32
"""Steps over which duration and throughput are taken."""


@dataclass(frozen=True)
class Totals:
    """What only the metrics endpoint shows: sums over this attempt, and what its last checkpoint took."""

    steps: int
    tokens: int
    phase_seconds: Mapping[str, float]
    checkpoint_seconds: float | None
    """None before this attempt wrote one."""


@dataclass(frozen=True)
class Activity:
    """What the stall watchdog looks at."""

    state: State
    step_seconds: tuple[float, ...]
    """Durations of the last steps of this attempt."""
    progress_at: float
    """When the last step ended or the state changed, in seconds of the monotonic clock."""


@dataclass(frozen=True)
class _Watched:
    """What the stall watchdog found last."""

    since: datetime | None = None
    deadline: float | None = None
    stall: StallReport | None = None


class StatusBoard:
    """The run's status. Every method is safe from any thread and none waits for anything but its siblings."""

    def __init__(self, uid: str = "", attempt: int = 1) -> None:
        self._lock = threading.Lock()
        self._uid = uid
        self._attempt = attempt
        self._state: State = "starting"
        self._progress_at = time.monotonic()
        self._watched = _Watched()
        self._clock = RunClock()
        self._health: Health | None = None
        self._step = 0
        self._max_steps = 0
        self._from_step = 0
        self._seconds: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._tokens: deque[int] = deque(maxlen=STEPS_REMEMBERED)
        self._tokens_total = 0
        self._steps_total = 0
        self._phase_totals: dict[str, float] = {}
        self._last_step_time: datetime | None = None
        self._phase_seconds: dict[str, float] = {}
        self._training: dict[str, float] = {}
        self._first_evaluation: dict[str, float] = {}
        self._evaluation: dict[str, float] = {}
        self._score_name = ""
        self._checkpoint: CheckpointStatus | None = None
        self._checkpoint_seconds: float | None = None
        self._best: BestCheckpointStatus | None = None
        self._inputs: Inputs | None = None
        self._data: DataStatus | None = None
        self._warnings: list[str] = []
        self._damaged: list[str] = []

    def enter(self, state: State) -> None:
        """The trainer starts doing something else."""
        with self._lock:
            self._clock.enter(state)
            self._state = state
            self._progress_at = time.monotonic()

    @property
    def state(self) -> State:
        with self._lock:
            return self._state

    def begin(self, step: int, max_steps: int, score_name: str) -> None:
        """The run starts at `step` of `max_steps`; `score_name` is the metric that stands for it."""
        with self._lock:
            self._clock.settle()
            self._step = self._from_step = step
            self._max_steps = max_steps
            self._score_name = score_name

    def step_done(
        self, step: int, seconds: float, tokens: int, metrics: Mapping[str, float], phases: Mapping[str, float]
    ) -> None:
        """Optimizer step number `step` (from 1) took `seconds` and processed `tokens` over all ranks."""
        with self._lock:
            self._clock.settle()
            self._progress_at = time.monotonic()
            self._step = step
            self._seconds.append(seconds)
            self._tokens.append(tokens)
            self._tokens_total += tokens
            self._steps_total += 1
            for phase, spent in phases.items():
                self._phase_totals[phase] = self._phase_totals.get(phase, 0.0) + spent
            self._last_step_time = datetime.now(UTC)
            self._phase_seconds = dict(phases)
            self._training = dict(metrics)

    def evaluated(self, metrics: Mapping[str, float], first: Mapping[str, float]) -> None:
        """Held-out metrics, and what they were in the run's first evaluation."""
        with self._lock:
            self._evaluation = dict(metrics)
            self._first_evaluation = dict(first)

    def checkpointed(self, checkpoint: CheckpointStatus, seconds: float | None = None) -> None:
        """A verified checkpoint exists; writing it took `seconds`, None for one that was found."""
        with self._lock:
            self._checkpoint = checkpoint
            self._checkpoint_seconds = seconds
            if seconds is not None:
                self._phase_seconds = {**self._phase_seconds, "checkpoint": seconds}
                self._phase_totals["checkpoint"] = self._phase_totals.get("checkpoint", 0.0) + seconds
                self._clock.saved()

    def restored(self, useful_seconds: float) -> None:
        """The run goes on from a state that `useful_seconds` of work are behind, or begins with 0."""
        with self._lock:
            self._clock.settle()
            self._clock.restored(useful_seconds)

    @property
    def useful_seconds(self) -> float:
        """Work behind the present state of the run, over all attempts."""
        with self._lock:
            return self._clock.useful or 0.0

    def turn_back(self) -> None:
        """Forgets what the run gives up when it goes back to an older checkpoint."""
        with self._lock:
            self._checkpoint = self._best = None
            self._training, self._evaluation, self._first_evaluation = {}, {}, {}

    def measured(self, health: Health) -> None:
        """What the guardrails measure."""
        with self._lock:
            self._health = health

    def found_best(self, best: BestCheckpointStatus) -> None:
        """Of the checkpoints so far this is the one with the best held-out value."""
        with self._lock:
            self._best = best

    def read_inputs(self, inputs: Inputs) -> None:
        """The digests of what the run reads."""
        with self._lock:
            self._inputs = inputs

    def read_rows(self, data: DataStatus | None) -> None:
        """What became of the training rows."""
        with self._lock:
            self._data = data

    def warn(self, text: str) -> None:
        """Something the user should know; the first ones are kept."""
        with self._lock:
            if text not in self._warnings and len(self._warnings) < MAX_WARNINGS:
                self._warnings.append(text)

    def found_damage(self, text: str) -> None:
        """A checkpoint does not match its manifest and is passed over; the last ones are kept."""
        with self._lock:
            if text not in self._damaged:
                self._damaged = [*self._damaged, shorten(text, DAMAGE_CHARACTERS)][-MAX_DAMAGED:]

    def metric_values(self) -> dict[str, float]:
        """The last finite metrics by name, held-out ones under `evaluation/`."""
        with self._lock:
            return {metric.name: metric.value for metric in self._metrics()}

    def activity(self) -> Activity:
        """Whether and how the run gets on."""
        with self._lock:
            return Activity(self._state, tuple(self._seconds), self._progress_at)

    def watched(self, since: datetime, deadline: float | None, stall: StallReport | None) -> None:
        """When the clock of the stall deadline started anew, that deadline in seconds, and the stall if there is."""
        with self._lock:
            self._watched = _Watched(since, deadline, stall)

    def report(self) -> StatusReport:
        """The body of `/v1/status`."""
        with self._lock:
            step_seconds = statistics.median(self._seconds) if self._seconds else None
            elapsed = sum(self._seconds)
            return StatusReport(
                uid=self._uid,
                attempt=self._attempt,
                state=self._state,
                step=self._step,
                max_steps=self._max_steps,
                from_step=self._from_step,
                eta_seconds=(
                    round(step_seconds * (self._max_steps - self._step), 3) if step_seconds is not None else None
                ),
                tokens_per_second=round(sum(self._tokens) / elapsed, 3) if elapsed > 0 else None,
                step_seconds=step_seconds,
                last_step_time=self._last_step_time,
                last_progress_time=self._watched.since,
                stall_deadline_seconds=self._watched.deadline,
                stall=self._watched.stall,
                phase_seconds=self._phase_seconds,
                metrics=self._metrics(),
                score=self._score(),
                checkpoint=self._checkpoint,
                best_checkpoint=self._best,
                inputs=self._inputs,
                data=self._data,
                health=self._health,
                time=self._clock.report(),
                warnings=list(self._warnings),
                damaged_checkpoints=list(self._damaged),
            )

    def totals(self) -> Totals:
        """What only the metrics endpoint shows."""
        with self._lock:
            return Totals(self._steps_total, self._tokens_total, dict(self._phase_totals), self._checkpoint_seconds)

    def termination_fields(self) -> dict[str, Any]:
        """The fields of the last words that the board knows."""
        report = self.report()
        return {
            "step": report.step,
            "max_steps": report.max_steps,
            "score": report.score,
            "metrics": report.metrics,
            "checkpoint": report.checkpoint,
            "best_checkpoint": report.best_checkpoint,
            "inputs": report.inputs,
            "damaged_checkpoints": report.damaged_checkpoints[-2:],
            "data": report.data,
            "health": None if report.health is None else _in_few_words(report.health),
            "time": report.time,
        }

    def _metrics(self) -> list[MetricValue]:
        held_out = held_out_values(self._evaluation, self._first_evaluation)
        training = [
            MetricValue(name=name, value=value, first=None)
            for name, value in self._training.items()
            if math.isfinite(value)
        ]
        return (held_out + training)[:MAX_METRICS]

    def _score(self) -> MetricValue | None:
        """The held-out score; without held-out rows the training metric of that name, or else the loss."""
        by_name = {metric.name: metric for metric in self._metrics()}
        for name in (EVALUATION_PREFIX + self._score_name, self._score_name, "loss"):
            if name in by_name:
                return by_name[name]
        return None


def _in_few_words(health: Health) -> Health:
    """What the last words have room for: the guardrails that are broken."""
    return health.model_copy(update={"signals": [one for one in health.signals if one.broken_since is not None]})


def held_out_values(metrics: Mapping[str, float], first: Mapping[str, float]) -> list[MetricValue]:
    """The finite metrics of an evaluation as status and model card show them, with those of the run's first one."""
    return [
        MetricValue(name=EVALUATION_PREFIX + name, value=value, first=_finite(first.get(name)))
        for name, value in metrics.items()
        if math.isfinite(value)
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
