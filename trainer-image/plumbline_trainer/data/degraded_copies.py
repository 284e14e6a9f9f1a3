"""Copies of completions from which something was removed, each with the degree of removal."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.data.seeds import derive_seed

Degrade = Callable[[str, int, int, int], str]
"""(text, level, levels, seed) -> the text without what `level` of `levels` takes away; level 0 takes nothing."""


@dataclass(frozen=True)
class DegradedCopies:
    """A degraded copy of each of the k completions of each row."""

    sequences: list[list[TokenSequence]]
    """k sequences a row, with the row's own prompt."""

    degrees: list[list[int]]
    """Their degrees, 0 to levels - 1."""


def degraded_copies(
    rows: Sequence[Any],
    numbers: Sequence[int],
    columns: Sequence[str],
    renderer: Renderer,
    degrade: Degrade,
    *,
    levels: int,
    seed: int,
    turn: int | str,
) -> DegradedCopies:
    """Copies of the completions `columns` (such as chosen, rejected) of `rows`, which have a `prompt` and a `place`,
    and a `prefix` and `final` where they are steps.

    `numbers` are the rows' numbers in their data set and `turn` is the epoch, or a name such as "evaluation": degree
    and removal depend on (seed, turn, number, column) alone, every degree is equally likely, and each epoch shows
    other copies. Raises `DataError` naming the row that the template refuses.
    """
    prompts, places = [row.prompt for row in rows], [row.place for row in rows]
    # pairs may be steps within an answer: what stands before them and goes on after them stays as it is
    prefixes = [getattr(row, "prefix", "") for row in rows]
    final = [getattr(row, "final", True) for row in rows]
    prompt_ids = renderer.prompt_ids(prompts, places, prefixes)
    degrees: list[list[int]] = [[] for _ in rows]
    sequences: list[list[TokenSequence]] = [[] for _ in rows]
    for column in columns:
        texts = []
        for row, number, own in zip(rows, numbers, degrees, strict=True):
            source = derive_seed(seed, "degraded copy", turn, number, column)
            own.append(random.Random(source).randrange(levels))
            texts.append(degrade(getattr(row, column), own[-1], levels, source))
        completions = renderer.completion_ids(prompts, texts, places, prefixes, final)
        for own_sequences, prompt, completion in zip(sequences, prompt_ids, completions, strict=True):
            own_sequences.append(TokenSequence(prompt, completion))
    return DegradedCopies(sequences, degrees)
