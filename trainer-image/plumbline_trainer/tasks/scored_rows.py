"""A data set of a preference job as sequences, with what the reference says about each of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from plumbline_trainer.data.batches import Layout, TokenSequence
from plumbline_trainer.data.rows import ListRow, PairRow, UnpairedRow
from plumbline_trainer.tasks.preference_data import PreferenceData


class ScoredRows:
    """The rows of one data set. Sequences are numbered row by row, tokens sequence by sequence."""

    def __init__(self, data: PreferenceData, layout: Layout) -> None:
        self.data = data
        self.sequences: list[list[TokenSequence]] = data.sequences
        """The sequences of each row; its own completions come first, then revisions, then samples."""

        self.completions = torch.tensor([_own_completions(row) for row in data.rows])
        """[rows] int64: the row's own completions."""

        self.sizes = [layout.size(row) for row in self.sequences]
        """Tokens that each row takes up in a pass."""

        self.first = _starts([len(row) for row in self.sequences])
        """[rows + 1] int64: number of each row's first sequence, and of all sequences."""

        lengths = [len(sequence.completion_ids) for row in self.sequences for sequence in row]
        self.tokens = torch.tensor(lengths, dtype=torch.float32)
        """[sequences] float32: completion tokens."""

        self.first_token = _starts(lengths)
        """[sequences + 1] int64: number of each sequence's first completion token, and of all of them."""

        self.reference: torch.Tensor | None = None
        """[sequences] float32: log pi_ref(y|x)."""

        self.reference_by_token: torch.Tensor | None = None
        """[tokens] float32: log pi_ref(y_t | x, y_<t)."""

        self.mismatched: tuple[list[list[TokenSequence]], torch.Tensor] | None = None
        """Each row's prompt with the completion of another row, as a row of one sequence, and their [rows] float32
        log pi_ref(y|x); for KTO's reference point."""

        self.desirable: torch.Tensor | None = None
        """[rows] bool, for unpaired rows."""

        if isinstance(data.rows[0], UnpairedRow):
            self.desirable = torch.tensor([row.label for row in data.rows])
        self.scores = _scores(data.rows)
        """[rows, K] float32: the data's scores of each row's completions; None where the data has none."""

    def __len__(self) -> int:
        return len(self.sequences)

    def sequence_numbers(self, rows: Sequence[int]) -> torch.Tensor:
        """The sequences of `rows`, in order."""
        return torch.cat([torch.arange(int(self.first[row]), int(self.first[row + 1])) for row in rows])

    def row_tokens(self, rows: Sequence[int]) -> int:
        """Tokens of the first completion of each of `rows`, which is the one to imitate."""
        return int(self.tokens[self.first[torch.tensor(rows)]].sum())

    def reference_tokens(self, numbers: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """[S, T]: the reference's log-probabilities of the tokens of the sequences `numbers`, laid out as `mask`."""
        if self.reference_by_token is None:
            return None
        places = torch.cat(
            [torch.arange(int(self.first_token[n]), int(self.first_token[n + 1])) for n in numbers.tolist()]
        )
        values = torch.zeros(mask.shape)
        return values.masked_scatter(mask.cpu(), self.reference_by_token[places]).to(mask.device)


def _starts(sizes: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(sizes)])


def _scores(rows: Sequence[object]) -> torch.Tensor | None:
    """[rows, K] float32, with 0 for completions that a row does not have."""
    found = [_scores_of(row) for row in rows]
    if any(scores is None for scores in found):
        return None
    given = [scores for scores in found if scores is not None]
    width = max(map(len, given))
    return torch.tensor([[*scores, *[0.0] * (width - len(scores))] for scores in given])


def _scores_of(row: object) -> list[float] | None:
    if isinstance(row, ListRow):
        return row.scores
    if isinstance(row, PairRow) and row.chosen_score is not None and row.rejected_score is not None:
        return [row.chosen_score, row.rejected_score]
    return None


def _own_completions(row: object) -> int:
    if isinstance(row, ListRow):
        return len(row.completions)
    return 2 if isinstance(row, PairRow) else 1
