"""What preempting a job would cost, told to schedulers by an annotation of its pods (pure).

The annotation holds the time of the newest verified checkpoint and not its age: a time is written once for each
checkpoint, an age would have to be written all the time and be wrong in between. What is lost by preempting the pod is
the time since then, or since the pod's start where the annotation is absent.
"""

from __future__ import annotations

from datetime import datetime

from plumbline_api.status import CheckpointStatus
from plumbline_operator.decide.attempts import Gang
from plumbline_operator.model import Annotate
from plumbline_operator.resources import CHECKPOINT_STEP_ANNOTATION, CHECKPOINT_TIME_ANNOTATION, PODS

LEAST_SECONDS = 60
"""A newer checkpoint is told only when it changes the answer by so much: each telling is a write for each pod."""


def tell_checkpoint(gang: Gang, checkpoint: CheckpointStatus | None) -> list[Annotate]:
    """Annotations to write on running pods that say nothing yet, or something older."""
    if checkpoint is None or gang.attempt.running_time is None:
        return []
    annotations = {
        CHECKPOINT_TIME_ANNOTATION: _text(checkpoint.time),
        CHECKPOINT_STEP_ANNOTATION: str(checkpoint.step),
    }
    return [
        Annotate(PODS, pod.name, pod.uid, annotations)
        for pod in gang.pods
        if not pod.finished
        and not pod.stopping
        and (checkpoint.time - (pod.checkpoint_time or gang.attempt.running_time)).total_seconds() >= LEAST_SECONDS
    ]


def _text(time: datetime) -> str:
    return time.replace(microsecond=0).isoformat().replace("+00:00", "Z")
