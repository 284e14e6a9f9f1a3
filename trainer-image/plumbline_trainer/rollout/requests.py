"""What is asked of an engine, and what it answers: completions, and figures of how they came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plumbline_trainer.rollout.sampling import Stream


@dataclass(frozen=True)
class Request:
    """Completions wanted for one prompt: one a stream."""

    prompt: Sequence[int]
    streams: Sequence[Stream]
    max_tokens: int | None = None
    """Longest completion, where it is less than the engine's limit."""

    guided: Sequence[int] | None = None
    """How many tokens of each completion an engine with a guide guides at most; all of them where it is not said."""


@dataclass(frozen=True)
class Completion:
    """What was generated: tokens with the end token where there is one, and their log-probabilities."""

    tokens: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
    guided: int = 0
    """So many of its first tokens were guided; their log-probabilities are those without guidance."""


@dataclass
class GenerationFigures:
    """What one call of `Engine.generate` did, and where its time went."""

    completions: int = 0
    tokens: int = 0
    """Of all completions, with their end tokens."""

    longest: int = 0
    """Tokens of the longest completion, which the others wait for."""

    prompt_tokens: int = 0
    """Computed prompt tokens: once a prompt, however many completions it has."""

    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Wall time of the prompts, and of everything else: choosing tokens and computing them."""

    alone_seconds: float = 0.0
    """Wall time for which one completion alone was unfinished and none waited: the slowest, with all others done."""

    decode_steps: int = 0
    """Forward passes of one token a row."""

    decode_rows: int = 0
    """Rows of all those passes, with those that had ended and were not dropped yet."""

    @property
    def rows_per_step(self) -> float:
        """Mean number of rows in a forward pass; 0 where there was none."""
        return self.decode_rows / self.decode_steps if self.decode_steps else 0.0

    @property
    def seconds(self) -> float:
        return self.prefill_seconds + self.decode_seconds

    @property
    def slowest_share(self) -> float:
        """Share of the time for which the slowest completion ran alone: 0 where others end with it, 1 where there is
        only one; 0 without any."""
        return self.alone_seconds / self.seconds if self.seconds else 0.0

    def __add__(self, other: GenerationFigures) -> GenerationFigures:
        """Of both calls together."""
        return GenerationFigures(
            **{
                name: max(value, getattr(other, name)) if name == "longest" else value + getattr(other, name)
                for name, value in vars(self).items()
            }
        )
