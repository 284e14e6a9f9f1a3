"""The rows of a preference job as token sequences: read, checked, rendered and fitted to the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.preference.family import DataShape
from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_api.sources import Dataset
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.rendering import Limits, Renderer, fit
from plumbline_trainer.data.rows import load_rows
from plumbline_trainer.tasks.data_sets import (
    PREFLIGHT_ROWS,
    load_data_sets,
    open_renderer,
    overlong_warnings,
    template_warnings,
)
from plumbline_trainer.tasks.task import InputReport

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

    rows_in_file: int
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
    max_rendered: int | None = None,
) -> PreferenceData:
    """Reads the data set of `spec.data.<field>` at `location`; renders all rows, or the first `max_rendered`, and
    applies the job's limits to them. Raises `DataError` naming file and line."""
    found = load_rows(location, dataset, shape_of(spec), max_rows=max_rows)
    rows = found.rows[:max_rendered]
    training = spec.training
    limits = Limits(training.max_prompt_tokens, training.max_completion_tokens, spec.data.overlong)
    fitted = fit(rows, tokenize(rows, shape_of(spec), renderer), limits)
    warnings = overlong_warnings(fitted, len(rows), "rows", field)
    return PreferenceData(fitted.rows, fitted.sequences, len(found.rows), found.digest, warnings)


def check_inputs(config: TrainerConfig) -> InputReport:
    """Refuses what `build` would refuse, as far as that can be known in seconds and without reading weights."""
    spec = spec_of(config)
    renderer = open_renderer(config)
    load = partial(load_data, spec=spec, renderer=renderer, max_rendered=PREFLIGHT_ROWS)
    train, evaluation = load_data_sets(config, load)
    warnings = template_warnings(renderer) + train.warnings + (evaluation.warnings if evaluation else [])
    return InputReport(train.rows_in_file, evaluation.rows_in_file if evaluation else 0, warnings)


def spec_of(config: TrainerConfig) -> PreferenceJobSpec:
    """The spec of a PreferenceJob."""
    if config.preference is None:
        raise ValueError("the configuration is not one of a PreferenceJob")
    return config.preference


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
    """Every row's prompt with the completion of a row with another prompt (for KTO's reference point).

    The completions are dealt out anew, each exactly once, so that they keep their distribution: taking the next row
    with another prompt would take the first completion of every prompt and no other, in many files the desirable one.
    Rows are put in order of their prompts and completions are moved on by the size of the largest group: that takes
    every completion out of its group, unless one prompt has more than half of all rows. The choice is made once for
    the data set, so that the reference's log-probabilities of these sequences can be computed once.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(data.sequences):
        groups.setdefault(tuple(row[0].prompt_ids), []).append(index)
    by_prompt = [index for group in groups.values() for index in group]
    shift = max(len(group) for group in groups.values()) if len(groups) > 1 else 1
    mismatched = [data.sequences[0][0]] * len(by_prompt)
    for position, index in enumerate(by_prompt):
        other = by_prompt[(position + shift) % len(by_prompt)]
        mismatched[index] = TokenSequence(data.sequences[index][0].prompt_ids, data.sequences[other][0].completion_ids)
    return mismatched
