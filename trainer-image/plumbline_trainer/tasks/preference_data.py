"""The rows of a preference job as token sequences: read, checked, rendered and fitted to the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plumbline_api.methods.preference import DataShape
from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_api.sources import Dataset
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.rendering import Limits, Renderer, fit
from plumbline_trainer.data.rows import Rows, load_rows

COMPLETIONS: dict[DataShape, tuple[str, ...]] = {
    "pairs": ("chosen", "rejected"),
    "unpaired": ("completion",),
    "completions": ("completion",),
}
"""The completions of a row of each shape, in the order of its sequences."""


@dataclass(frozen=True)
class PreferenceData:
    """Rows that fit the limits, with their sequences."""

    rows: list[Any]
    """`PairRow`, `UnpairedRow` or `CompletionRow`, by the objective's shape."""

    sequences: list[list[TokenSequence]]
    """The sequences of each row, in the order of `COMPLETIONS`."""

    digest: str
    """Digest of the file's rows, before any was dropped."""

    warnings: list[str]
    """What the user should know, such as the number of dropped rows."""

    def flat_sequences(self) -> list[TokenSequence]:
        """All sequences, row by row."""
        return [sequence for row in self.sequences for sequence in row]


def load_data(
    location: str,
    dataset: Dataset,
    spec: PreferenceJobSpec,
    renderer: Renderer,
    *,
    field: str,
    max_rows: int | None = None,
) -> PreferenceData:
    """Reads the data set of `spec.data.<field>` at `location`. Raises `DataError` naming file and line."""
    return fit_rows(load_rows(location, dataset, shape_of(spec), max_rows=max_rows), spec, renderer, field=field)


def fit_rows(found: Rows, spec: PreferenceJobSpec, renderer: Renderer, *, field: str) -> PreferenceData:
    """Renders rows and applies the job's limits to them."""
    training = spec.training
    limits = Limits(training.max_prompt_tokens, training.max_completion_tokens, spec.data.overlong)
    fitted = fit(found.rows, tokenize(found.rows, shape_of(spec), renderer), limits)
    warnings = []
    if fitted.dropped:
        warnings.append(f"data.{field}: {fitted.dropped} of {len(found.rows)} rows are too long and were dropped")
    if fitted.truncated:
        warnings.append(f"data.{field}: {fitted.truncated} of {len(found.rows)} rows are too long and were truncated")
    return PreferenceData(fitted.rows, fitted.sequences, found.digest, warnings)


def shape_of(spec: PreferenceJobSpec) -> DataShape:
    shape: DataShape = spec.objective.value.data_shape
    return shape


def tokenize(rows: Sequence[Any], shape: DataShape, renderer: Renderer) -> list[list[TokenSequence]]:
    """The sequences of every row; those of one row share their prompt's ids."""
    prompts = [row.prompt for row in rows]
    places = [row.place for row in rows]
    prompt_ids = renderer.prompt_ids(prompts, places)
    columns = [
        renderer.completion_ids(prompts, [getattr(row, name) for row in rows], places) for name in COMPLETIONS[shape]
    ]
    return [
        [TokenSequence(prompt, completion) for completion in completions]
        for prompt, *completions in zip(prompt_ids, *columns, strict=True)
    ]


def mismatched_sequences(data: PreferenceData) -> list[TokenSequence]:
    """Every row's prompt with the completion of another row, one sequence a row (for KTO's reference point).

    The other row is the next one in the file, around its end, that has another prompt: rows of one prompt often stand
    together, and their completions do fit. The choice is made once for the data set, so that the reference's
    log-probabilities of these sequences can be computed once.
    """
    count = len(data.rows)
    prompts = [tuple(row[0].prompt_ids) for row in data.sequences]
    partner = [0] * count
    # backwards and twice around: `differing` is the first row after `here` that ends the run of equal prompts
    differing = None
    for row in range(2 * count - 1, -1, -1):
        here, following = row % count, (row + 1) % count
        if prompts[here] != prompts[following]:
            differing = following
        partner[here] = following if differing is None else differing
    return [
        TokenSequence(row[0].prompt_ids, data.sequences[partner[index]][0].completion_ids)
        for index, row in enumerate(data.sequences)
    ]
