"""Where the steps of a completion begin: the places whose values Monte-Carlo estimates need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def step_starts(pieces: Sequence[str], separator: str, most: int) -> list[int]:
    """The indices of tokens that begin a step, in order; the first is 0. Empty for a completion without tokens.

    `pieces` are the tokens' texts. A step ends with the token that completes an occurrence of `separator` after some
    text, also where the separator spans tokens. Blank tokens after it belong to the step, so that no step is blank.
    With more than `most` steps, neighbours are merged into about equal numbers.
    """
    starts, step = [0] if pieces else [], ""
    for index, piece in enumerate(pieces[:-1]):
        step += piece
        if separator in _without_leading(separator, step) and pieces[index + 1].strip():
            starts.append(index + 1)
            step = ""
    if len(starts) <= most:
        return starts
    return [starts[part * len(starts) // most] for part in range(most)]


def prefix_values(starts: Sequence[Sequence[int]], means: Sequence[Sequence[float]], width: int) -> Tensor:
    """[N, `width`] float64 for `JudgedRollout.prefix_values`: the mean reward of what was sampled from before each of
    the N completions' `starts`, NaN elsewhere. A mean is NaN where nothing sampled there could be judged."""
    table = torch.full((len(starts), width), torch.nan, dtype=torch.float64)
    for row, (places, values) in enumerate(zip(starts, means, strict=True)):
        table[row, list(places)] = torch.tensor(list(values), dtype=torch.float64)
    return table


def _without_leading(separator: str, text: str) -> str:
    """`text` from its first content on: separators and blanks before it end no step."""
    text = text.lstrip()
    while text.startswith(separator):
        text = text.removeprefix(separator).lstrip()
    return text
