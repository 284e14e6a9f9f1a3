"""What the rest of the trainer needs of whatever generates completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.rollout.requests import Completion, GenerationFigures, Request


class CompletionEngine(Protocol):
    """Prompts in, completions with log-probabilities out: `engine.Engine` and `vllm_engine.VllmEngine`."""

    last_figures: GenerationFigures
    """Of the latest call of `generate` that came to its end."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling | None, poll: Callable[[], None] = ...
    ) -> list[list[Completion]]:
        """The completions of every request, in order; greedy without `sampling` (the streams are then only counted).

        `poll` is called again and again and ends the call by raising, which is how a stop request gets through.
        """
