"""What the training loop is told of the job, and which checkpoints are of the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plumbline_api.guardrails import Guardrail
from plumbline_api.running import Checkpoint, Evaluation
from plumbline_trainer.checkpoint.rollbacks import Rollback
from plumbline_trainer.failures import ConfigError


@dataclass(frozen=True)
class Plan:
    """What of the configuration concerns the loop itself."""

    seed: int
    evaluation: Evaluation
    checkpoint: Checkpoint
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What must be the same for a checkpoint to belong to this run: dotted field -> value."""

    uid: str = ""
    """Unique id of the job: time that another one spent on a checkpoint is not this one's."""

    guardrails: Sequence[Guardrail] = ()
    """What is watched; see `effective_guardrails`."""

    rollouts: bool = False
    """Whether steps sample completions and are rewarded for them."""

    rollbacks: Sequence[Rollback] = ()
    """The rollbacks of the run so far."""


@dataclass
class History:
    """What of the past is kept: the held-out metrics of the first and the last evaluation."""

    evaluated_step: int = -1
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)


def refuse_other_run(uri: str, stored: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises `ConfigError` naming the fields in which a checkpoint's run differs from the present one."""
    absent = object()
    differing = sorted(
        name for name in stored.keys() | present.keys() if stored.get(name, absent) != present.get(name, absent)
    )
    if not differing:
        return
    details = "; ".join(
        f"{name} was {stored.get(name, 'not set')!r} and is now {present.get(name, 'not set')!r}"
        for name in differing[:5]
    )
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    raise ConfigError(
        f"checkpoint {uri} belongs to a different run: {details}{more}. "
        "Restore the configuration, or choose another folder for checkpoints to start over"
    )
