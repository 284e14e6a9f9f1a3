"""Which checkpoint is the best one: the step with the best held-out value so far. Pure; the loop keeps what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from plumbline_api.running import BestCheckpoint
from plumbline_trainer.failures import ConfigError


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    step: int
    """Optimizer steps done when it was made."""

    metric: str
    mode: str
    """By which metric and in which direction it is the best; see `BestCheckpoint`."""

    metrics: dict[str, float]
    """All metrics of that evaluation."""

    @property
    def value(self) -> float:
        """The value that no other evaluation beats."""
        return self.metrics[self.metric]

    def to_document(self) -> dict[str, Any]:
        """What `restored` takes, JSON-able."""
        return asdict(self)


def better(best: Best | None, rule: BestCheckpoint, step: int, metrics: Mapping[str, float]) -> Best | None:
    """The best of `best` and the evaluation `metrics` made after `step` steps; the earlier one of two equal values.

    The model before the first step is no candidate, as it has no checkpoint, nor is a value that is not finite. Raises
    `ConfigError` where the evaluation has no such metric.
    """
    if rule.metric not in metrics:
        known = ", ".join(sorted(metrics)) or "none"
        raise ConfigError(f"checkpoint.best.metric {rule.metric!r} is no metric of the evaluation; these are: {known}")
    value = metrics[rule.metric]
    if step == 0 or not math.isfinite(value):
        return best
    if best is not None and (value <= best.value if rule.mode == "max" else value >= best.value):
        return best
    return Best(step, rule.metric, rule.mode, dict(metrics))


def restored(document: Mapping[str, Any] | None, rule: BestCheckpoint | None) -> Best | None:
    """The best evaluation as a checkpoint has it; None where it was chosen by another rule than the present one."""
    if document is None or rule is None or (document["metric"], document["mode"]) != (rule.metric, rule.mode):
        return None
    return Best(document["step"], document["metric"], document["mode"], dict(document["metrics"]))
