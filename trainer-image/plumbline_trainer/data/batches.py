"""Token sequences, their layout for a forward pass, and their grouping into micro-batches. None of it changes a loss.

Two layouts. `pad_sequences` gives each sequence a row of its own. `share_prompts` computes a prompt once for all its
completions: a prompt and its completions follow one another in a row, each completion sees the prompt and itself, and
positions go on from the prompt's end in each of them. Prompts stand in one row without any padding, or in a row each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch


@dataclass(frozen=True)
class TokenSequence:
    """One prompt and one completion as token ids."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class PromptGroup:
    """A prompt in a row, followed by the completions that share it."""

    prompt: int
    """Tokens of the prompt."""

    completions: tuple[int, ...]
    """Tokens of each completion; none is empty."""

    @property
    def tokens(self) -> int:
        return self.prompt + sum(self.completions)


@dataclass(frozen=True)
class SequenceBatch:
    """B sequences, ready for a forward pass.

    The model sees R rows of `input_ids`; completion token t of sequence b is predicted by the hidden state at
    `source[n]`, an index into the flattened `[R * L]` positions, where n runs over the N completion tokens of all
    sequences in order.
    """

    input_ids: torch.Tensor
    """[R, L] int64, padded on the right. Causal attention never looks right, so padding needs no mask."""

    lengths: torch.Tensor
    """[R] int64: tokens of each row that are not padding."""

    source: torch.Tensor
    """[N] int64: flat position whose hidden state predicts the n-th completion token."""

    ends: torch.Tensor
    """[B] int64: flat position of each sequence's last token that is not the padding token."""

    targets: torch.Tensor
    """[B, T] int64: completion ids, padded with 0."""

    mask: torch.Tensor
    """[B, T] bool: true where `targets` holds a completion token."""

    positions: torch.Tensor | None = None
    """[R, L] int64: position of each token in its sequence; None where it is the position in the row."""

    groups: tuple[tuple[PromptGroup, ...], ...] | None = None
    """The prompts of each row with their completions, in order; None where a row is one sequence."""

    @property
    def size(self) -> int:
        """Number of sequences, B."""
        return self.targets.shape[0]

    @property
    def tokens(self) -> int:
        """Tokens that are not padding; a shared prompt counts once."""
        return int(self.lengths.sum())

    @property
    def padded_tokens(self) -> int:
        """Positions that the model computes, R * L."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> SequenceBatch:
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def pad_sequences(sequences: Sequence[TokenSequence], pad_id: int) -> SequenceBatch:
    """One row a sequence, padded on the right. Every prompt needs a token: it predicts the first target."""
    length = max(len(sequence) for sequence in sequences)
    starts = [row * length for row in range(len(sequences))]
    rows = [[*sequence.prompt_ids, *sequence.completion_ids] for sequence in sequences]
    prompt_ends = [start + len(sequence.prompt_ids) for start, sequence in zip(starts, sequences, strict=True)]
    return _batch(sequences, rows, prompt_ends, prompt_ends, pad_id)


def share_prompts(
    sequences: Sequence[TokenSequence], pad_id: int, *, one_row: bool, sharers: Sequence[int] | None = None
) -> SequenceBatch:
    """Sequences with equal prompts share the prompt's tokens, in one row for all prompts or in a row for each.

    With `sharers`, a number for each sequence, only sequences of the same number share. Every prompt and every
    completion needs a token.
    """
    members: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for index, sequence in enumerate(sequences):
        sharer = 0 if sharers is None else sharers[index]
        members.setdefault((sharer, tuple(sequence.prompt_ids)), []).append(index)
    grouped = [
        PromptGroup(len(prompt), tuple(len(sequences[index].completion_ids) for index in indices))
        for (_, prompt), indices in members.items()
    ]
    layout = (tuple(grouped),) if one_row else tuple((group,) for group in grouped)
    length = max(sum(group.tokens for group in row) for row in layout)
    prompt_ends, completion_starts = [0] * len(sequences), [0] * len(sequences)
    rows: list[list[int]] = [[]] if one_row else []
    positions: list[list[int]] = [[]] if one_row else []
    for (_, prompt), indices in members.items():
        if not one_row:
            rows.append([])
            positions.append([])
        row_start = (len(rows) - 1) * length
        rows[-1].extend(prompt)
        positions[-1].extend(range(len(prompt)))
        end = row_start + len(rows[-1])
        for index in indices:
            completion = sequences[index].completion_ids
            prompt_ends[index], completion_starts[index] = end, row_start + len(rows[-1])
            rows[-1].extend(completion)
            positions[-1].extend(range(len(prompt), len(prompt) + len(completion)))
            if not completion:
                raise ValueError("a sequence that shares its prompt needs at least one completion token")
    batch = _batch(sequences, rows, prompt_ends, completion_starts, pad_id)
    return replace(batch, positions=_padded(positions, length, 0), groups=layout)


def _batch(
    sequences: Sequence[TokenSequence],
    rows: Sequence[Sequence[int]],
    prompt_ends: Sequence[int],
    completion_starts: Sequence[int],
    pad_id: int,
) -> SequenceBatch:
    """The batch of `rows`, given the flat positions after each sequence's prompt and of its completion's start."""
    width = max(1, max(len(sequence.completion_ids) for sequence in sequences))
    lengths = [len(sequence.completion_ids) for sequence in sequences]
    source = []
    for sequence, prompt_end, start, length in zip(sequences, prompt_ends, completion_starts, lengths, strict=True):
        if not sequence.prompt_ids:
            raise ValueError("a sequence needs at least one prompt token")
        if length:
            # the prompt's last token predicts the first completion token, each completion token the next one
            source += [prompt_end - 1, *range(start, start + length - 1)]
    ends = []
    for sequence, prompt_end, start, length in zip(sequences, prompt_ends, completion_starts, lengths, strict=True):
        last = length
        while last and sequence.completion_ids[last - 1] == pad_id:
            last -= 1
        ends.append(start + last - 1 if last else prompt_end - 1)
    return SequenceBatch(
        input_ids=_padded(rows, max(len(row) for row in rows), pad_id),
        lengths=torch.tensor([len(row) for row in rows]),
        source=torch.tensor(source, dtype=torch.int64),
        ends=torch.tensor(ends),
        targets=_padded([sequence.completion_ids for sequence in sequences], width, 0),
        mask=torch.arange(width) < torch.tensor(lengths)[:, None],
    )


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    """[len(rows), length] int64, filled up with `value` on the right."""
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.int64)


class RowSize(NamedTuple):
    """What a row of data takes up in a pass."""

    rows: int
    """Rows of the model's input."""

    width: int
    """Tokens of the longest of them."""

    @property
    def tokens(self) -> int:
        return self.rows * self.width


@dataclass(frozen=True)
class Layout:
    """How rows of data, each a few sequences, become forward passes."""

    pad_id: int

    shares_prompts: bool
    """Whether the model computes a prompt once for its completions."""

    one_row: bool
    """Whether prompts that are shared stand in one row without padding, or in a row each."""

    token_budget: int
    """Most tokens of a pass, unless a single row has more."""

    max_rows: int | None = None
    """Most rows of data in a pass; None: as many as the budget allows."""

    def batch(self, rows: Sequence[Sequence[TokenSequence]]) -> SequenceBatch:
        """The sequences of some rows, one after another, ready for a pass."""
        sequences = [sequence for row in rows for sequence in row]
        if not self.shares_prompts:
            return pad_sequences(sequences, self.pad_id)
        # in rows of their own, prompts that different rows of data have in common would make one much longer
        sharers = None if self.one_row else [number for number, row in enumerate(rows) for _ in row]
        return share_prompts(sequences, self.pad_id, one_row=self.one_row, sharers=sharers)

    def size(self, row: Sequence[TokenSequence]) -> RowSize:
        """What a row takes up in a pass."""
        if not self.shares_prompts:
            return RowSize(len(row), max(map(len, row)))
        tokens: dict[tuple[int, ...], int] = {}
        for sequence in row:
            prompt = tuple(sequence.prompt_ids)
            tokens[prompt] = tokens.get(prompt, len(prompt)) + len(sequence.completion_ids)
        return RowSize(1, sum(tokens.values())) if self.one_row else RowSize(len(tokens), max(tokens.values()))

    def passes(self, sizes: Sequence[RowSize]) -> list[list[int]]:
        """The rows of each pass, as positions in `sizes`, given each row's `size`."""
        padded = not (self.shares_prompts and self.one_row)
        return micro_batches(sizes, token_budget=self.token_budget, max_items=self.max_rows, padded=padded)


def micro_batches(
    sizes: Sequence[RowSize], *, token_budget: int, max_items: int | None = None, padded: bool = True
) -> list[list[int]]:
    """Groups rows of data into micro-batches with little padding; returns lists of positions in `sizes`.

    Rows are sorted by width, so that neighbours pad little, and a group is closed when its size would pass
    `token_budget` or when it holds `max_items`. Its size is its input rows times the widest of them where they are
    `padded` to one width, else the sum of the widths. A row larger than the budget is a group of its own. The widest
    group comes first: if memory does not suffice, that shows at once.
    """
    widest_first = sorted(range(len(sizes)), key=lambda item: (-sizes[item].width, item))
    groups: list[list[int]] = []
    rows = tokens = 0
    for item in widest_first:
        rows, tokens = rows + sizes[item].rows, tokens + sizes[item].tokens
        has_room = bool(groups) and (max_items is None or len(groups[-1]) < max_items)
        if has_room and (rows * sizes[groups[-1][0]].width if padded else tokens) <= token_budget:
            groups[-1].append(item)
            continue
        groups.append([item])
        rows, tokens = sizes[item].rows, sizes[item].tokens
    return groups


def default_token_budget(device: torch.device) -> int:
    """Tokens in one forward pass where the job sets no micro-batch size.

    A GPU needs large passes to be busy; a CPU is busy with little and keeps small activations in its caches.
    """
    return 16_384 if device.type == "cuda" else 1_536
