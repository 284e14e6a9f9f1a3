"""The rows of a preference job as token sequences: read, paired, filtered, rendered and fitted to the limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.preference.family import DataShape
from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_api.status import DataStatus, RowCount
from plumbline_trainer.data import filters as reasons
from plumbline_trainer.data.augmentation import instruct_lengths
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.filters import by_length, without_duplicates
from plumbline_trainer.data.mixing import Part, quotas
from plumbline_trainer.data.pairing.registry import make_pairs
from plumbline_trainer.data.rendering import Limits, Renderer, fit
from plumbline_trainer.data.revisions import RevisionTemplate, revision_sequences
from plumbline_trainer.data.rows import load_rows
from plumbline_trainer.data.seeds import derive_seed
from plumbline_trainer.failures import DataError
from plumbline_trainer.inputs import combined_digest
from plumbline_trainer.modeling.loading import load_configuration, resolve_directory
from plumbline_trainer.tasks.data_sets import (
    PREFLIGHT_ROWS,
    DataSource,
    load_data_sets,
    open_renderer,
    overlong_warnings,
    template_warnings,
)
from plumbline_trainer.tasks.preference_rows import check_rows, needed_columns
from plumbline_trainer.tasks.task import InputReport

COMPLETIONS: dict[DataShape, tuple[str, ...]] = {
    "pairs": ("chosen", "rejected"),
    "unpaired": ("completion",),
    "completions": ("completion",),
}
"""The completions of a row of each shape but lists, in the order of its sequences."""


@dataclass(frozen=True)
class PreferenceData:
    """Rows that fit the limits, with their sequences."""

    rows: list[Any]
    """`PairRow`, `UnpairedRow`, `CompletionRow` or `ListRow`, by the objective's shape."""

    sequences: list[list[TokenSequence]]
    """The sequences of each row: in the order of `COMPLETIONS`, or of the row's own list; then its revisions."""

    rows_in_file: int
    digest: str
    """Digest of the files' rows, before any was dropped."""

    warnings: list[str]
    """What the user should know, such as the number of dropped rows."""

    parts: tuple[Part, ...] = ()
    """The sources with their weights, in the order of their rows; empty where there is only one."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Rows that were left out, by reason: see `data.filters.REASONS`."""

    changed: Counter[str] = field(default_factory=Counter)
    """Rows that are used in another form than they were read."""

    def flat_sequences(self) -> list[TokenSequence]:
        """All sequences, row by row."""
        return [sequence for row in self.sequences for sequence in row]

    @property
    def status(self) -> DataStatus:
        """The counts, as the job's status has them."""
        return DataStatus(
            rows_read=self.rows_in_file,
            rows_used=len(self.rows),
            dropped=_counts(self.dropped),
            changed=_counts(self.changed),
        )


def load_data(
    sources: Sequence[DataSource],
    spec: PreferenceJobSpec,
    renderer: Renderer,
    *,
    training: bool,
    max_rows: int | None = None,
    max_rendered: int | None = None,
) -> PreferenceData:
    """Reads the files of a data set, makes of their rows what the spec asks for, and applies the job's limits.

    Renders all rows, or the first `max_rendered` of each file. Length instructions are for training rows only: held-out
    rows stay what their file says. Raises `DataError` naming file and line.
    """
    loaded = [_load_source(source, spec, renderer, training, max_rows, max_rendered) for source in sources]
    if len(loaded) == 1:
        return loaded[0]
    parts = [Part(source.name, len(data.rows), source.weight) for source, data in zip(sources, loaded, strict=True)]
    if max_rendered is None:
        _check_weights(parts)
    return PreferenceData(
        rows=[row for data in loaded for row in data.rows],
        sequences=[row for data in loaded for row in data.sequences],
        rows_in_file=sum(data.rows_in_file for data in loaded),
        digest=combined_digest((source.name, data.digest) for source, data in zip(sources, loaded, strict=True)),
        warnings=[warning for data in loaded for warning in data.warnings],
        parts=tuple(parts),
        dropped=sum((data.dropped for data in loaded), Counter()),
        changed=sum((data.changed for data in loaded), Counter()),
    )


def _check_weights(parts: Sequence[Part]) -> None:
    try:
        quotas(parts)
    except ValueError as error:
        raise DataError(f"data.mixture: {error}") from None


def _load_source(
    source: DataSource,
    spec: PreferenceJobSpec,
    renderer: Renderer,
    training: bool,
    max_rows: int | None,
    max_rendered: int | None,
) -> PreferenceData:
    data, limits = spec.data, spec.training
    dropped, changed = Counter[str](), Counter[str]()
    pairing = None if data.pairing is None else data.pairing.value
    seed = derive_seed(limits.seed, "rows", source.field)
    found = load_rows(
        source.location,
        source.dataset,
        shape_of(spec) if pairing is None else pairing.reads,
        max_rows=max_rows,
        needed=needed_columns(spec),
        drop_equal_texts=data.filters.drop_equal_texts,
        source=source.name,
    )
    rows = found.rows
    dropped[reasons.EQUAL_TEXTS] = found.equal_texts
    if pairing is not None:
        paired = make_pairs(pairing, rows, seed)
        rows, dropped[reasons.NO_PAIR] = paired.rows, paired.without_pair
    check_rows(rows, spec)
    if data.filters.drop_duplicates:
        rows, dropped[reasons.DUPLICATE] = without_duplicates(rows)
    if data.length_instruction is not None and training:
        instructed = instruct_lengths(data.length_instruction, rows, seed)
        rows = instructed.rows
        changed[reasons.LENGTH_INSTRUCTION] = instructed.instructed
        changed[reasons.TURNED_ROUND] = instructed.turned
    _refuse_nothing(rows, source, dropped)
    rows = rows[:max_rendered]
    kept = by_length(rows, tokenize(rows, shape_of(spec), renderer), data.filters)
    dropped += kept.dropped
    _refuse_nothing(kept.rows, source, dropped)
    sequences = kept.sequences
    objective = spec.objective.value
    if objective.needs_revisions:
        template = RevisionTemplate(objective.revision_template, objective.revision_request, renderer.has_template)
        revisions = revision_sequences(kept.rows, template, renderer)
        sequences = [[*own, *others] for own, others in zip(sequences, revisions, strict=True)]
    fitted = fit(kept.rows, sequences, Limits(limits.max_prompt_tokens, limits.max_completion_tokens, data.overlong))
    warnings = [
        f"data.{source.field}: {count} of {found.rows_in_file} rows were left out: {reasons.REASONS[reason]}"
        for reason, count in dropped.items()
        if count
    ] + overlong_warnings(fitted, len(kept.rows), "rows", source.field)
    dropped[reasons.OVERLONG], changed[reasons.TRUNCATED] = fitted.dropped, fitted.truncated
    return PreferenceData(
        fitted.rows,
        fitted.sequences,
        found.rows_in_file,
        found.digest,
        warnings,
        dropped=+dropped,
        changed=+changed,
    )


def _refuse_nothing(rows: Sequence[Any], source: DataSource, dropped: Counter[str]) -> None:
    if rows:
        return
    why = "; ".join(f"{count} because {reasons.REASONS[reason]}" for reason, count in dropped.items() if count)
    raise DataError(f"data.{source.field}: no row is left, all were left out: {why}")


def _counts(counter: Counter[str]) -> list[RowCount]:
    return [RowCount(reason=reason, rows=count) for reason, count in sorted(counter.items()) if count]


def check_inputs(config: TrainerConfig) -> InputReport:
    """Refuses what `build` would refuse, as far as that can be known in seconds and without reading weights."""
    spec = spec_of(config)
    renderer = open_renderer(config)
    if spec.objective.value.masked_likelihood:
        _check_masked_model(config, renderer)
    load = partial(load_data, spec=spec, renderer=renderer, max_rendered=PREFLIGHT_ROWS)
    train, evaluation = load_data_sets(config, load)
    warnings = template_warnings(renderer) + train.warnings + (evaluation.warnings if evaluation else [])
    return InputReport(train.rows_in_file, evaluation.rows_in_file if evaluation else 0, warnings)


def _check_masked_model(config: TrainerConfig, renderer: Renderer) -> None:
    """Raises `ModelError` for a model that is no masked language model or whose tokenizer has no mask."""
    from plumbline_trainer.modeling.masked_likelihood import check_masked_architecture, mask_token_id

    for location in filter(None, (config.paths.model, config.paths.reference)):
        check_masked_architecture(load_configuration(resolve_directory(location)), location)
    mask_token_id(renderer.tokenizer)


def spec_of(config: TrainerConfig) -> PreferenceJobSpec:
    """The spec of a PreferenceJob."""
    if config.preference is None:
        raise ValueError("the configuration is not one of a PreferenceJob")
    return config.preference


def shape_of(spec: PreferenceJobSpec) -> DataShape:
    """The shape of the rows that the objective learns from."""
    shape: DataShape = spec.objective.value.data_shape
    return shape


def completions_of(row: Any, shape: DataShape) -> list[str]:
    """The texts of a row's completions, in the order of its sequences."""
    return list(row.completions) if shape == "lists" else [getattr(row, name) for name in COMPLETIONS[shape]]


def tokenize(rows: Sequence[Any], shape: DataShape, renderer: Renderer) -> list[list[TokenSequence]]:
    """The sequences of every row; those of one row share their prompt's ids, which include a pair's prefix."""
    prompts, places = [row.prompt for row in rows], [row.place for row in rows]
    steps = shape == "pairs"
    prefixes = [row.prefix for row in rows] if steps else None
    prompt_ids = renderer.prompt_ids(prompts, places, prefixes)
    texts = [completions_of(row, shape) for row in rows]
    # one call for all completions, in which those of a row are neighbours
    owner = [index for index, completions in enumerate(texts) for _ in completions]
    ids = iter(
        renderer.completion_ids(
            [prompts[index] for index in owner],
            [text for completions in texts for text in completions],
            [places[index] for index in owner],
            [prefixes[index] for index in owner] if prefixes else None,
            [rows[index].final for index in owner] if steps else None,
        )
    )
    return [
        [TokenSequence(prompt, next(ids)) for _ in completions]
        for prompt, completions in zip(prompt_ids, texts, strict=True)
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
