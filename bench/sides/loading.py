"""Time that a trainer spends reading weights, whichever of its parts does it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from bench.measurement import Recorder


def record_loading(recorder: Recorder) -> None:
    """Has every `from_pretrained` of a model of this process recorded."""
    original = PreTrainedModel.__dict__["from_pretrained"].__func__

    def recorded(cls: type[PreTrainedModel], *arguments: Any, **options: Any) -> Any:
        with recorder.reading_weights():
            return original(cls, *arguments, **options)

    PreTrainedModel.from_pretrained = classmethod(recorded)
