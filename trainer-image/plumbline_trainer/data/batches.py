"""Token sequences, their padding, and their grouping into micro-batches. None of it changes a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenSequence:
    """One prompt and one completion as token ids."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class SequenceBatch:
    """B sequences, ready for a forward pass.

    The model sees R rows of `input_ids`; completion token t of sequence b is predicted by the hidden state at
    `source[n]`, an index into the flattened `[R * L]` positions, where n runs over the N completion tokens of all
    sequences in order. One row a sequence (R = B) is what `pad_sequences` makes; because `source` alone ties
    sequences to rows, sequences may share a row, and with it their prompt, without any change downstream.
    """

    input_ids: torch.Tensor
    """[R, L] int64, padded on the right. Causal attention never looks right, so no attention mask is needed."""

    lengths: torch.Tensor
    """[R] int64: tokens of each row that are not padding."""

    source: torch.Tensor
    """[N] int64: flat position whose hidden state predicts the n-th completion token."""

    targets: torch.Tensor
    """[B, T] int64: completion ids, padded with 0."""

    mask: torch.Tensor
    """[B, T] bool: true where `targets` holds a completion token."""

    @property
    def size(self) -> int:
        """Number of sequences, B."""
        return self.targets.shape[0]

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> SequenceBatch:
        return SequenceBatch(
            self.input_ids.to(device, non_blocking=True),
            self.lengths.to(device, non_blocking=True),
            self.source.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.mask.to(device, non_blocking=True),
        )


def pad_sequences(sequences: Sequence[TokenSequence], pad_id: int) -> SequenceBatch:
    """Pads sequences on the right, one row each. Every prompt needs a token: it predicts the first target."""
    length = max(len(sequence) for sequence in sequences)
    width = max(1, max(len(sequence.completion_ids) for sequence in sequences))
    input_ids = torch.full((len(sequences), length), pad_id, dtype=torch.int64)
    targets = torch.zeros((len(sequences), width), dtype=torch.int64)
    mask = torch.zeros((len(sequences), width), dtype=torch.bool)
    source = []
    for row, sequence in enumerate(sequences):
        prompt, completion = len(sequence.prompt_ids), len(sequence.completion_ids)
        if not prompt:
            raise ValueError("a sequence needs at least one prompt token")
        input_ids[row, :prompt] = torch.as_tensor(sequence.prompt_ids)
        input_ids[row, prompt : prompt + completion] = torch.as_tensor(sequence.completion_ids, dtype=torch.int64)
        targets[row, :completion] = torch.as_tensor(sequence.completion_ids, dtype=torch.int64)
        mask[row, :completion] = True
        source.append(row * length + prompt - 1 + torch.arange(completion))
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return SequenceBatch(input_ids, lengths, torch.cat(source), targets, mask)


def micro_batches(
    lengths: Sequence[int], *, token_budget: int, max_items: int | None = None, sequences_per_item: int = 1
) -> list[list[int]]:
    """Groups items (rows, or pairs of rows) into micro-batches with little padding; returns lists of positions.

    `lengths[i]` is the longest sequence of item i. Items are sorted by length, so that neighbours pad little, and a
    group is closed when its padded size, items x sequences_per_item x longest, would pass `token_budget` or when it
    holds `max_items`. An item larger than the budget is a group of its own. The longest group comes first: if memory
    does not suffice, that shows at once.
    """
    by_length = sorted(range(len(lengths)), key=lambda item: (-lengths[item], item))
    groups: list[list[int]] = []
    for item in by_length:
        if groups:
            group = groups[-1]
            padded = (len(group) + 1) * sequences_per_item * lengths[group[0]]
            if padded <= token_budget and (max_items is None or len(group) < max_items):
                group.append(item)
                continue
        groups.append([item])
    return groups


def default_token_budget(device: torch.device) -> int:
    """Padded tokens in one forward pass where the job sets no micro-batch size.

    A GPU needs large passes to be busy; a CPU is busy with little and keeps small activations in its caches.
    """
    return 16_384 if device.type == "cuda" else 4_096
