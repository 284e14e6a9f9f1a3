"""What the objective of a preference job needs of each row, and the refusal of rows that do not have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_trainer.data.rows import ListRow, PairRow, listed
from plumbline_trainer.failures import ConfigError, DataError


def needed_columns(spec: PreferenceJobSpec) -> dict[str, str]:
    """Fields of `DatasetColumns` that every row of the files must fill -> the field of the spec that needs them.

    Raises `ConfigError` where the rest of the spec takes from the rows what one term of a sum of objectives needs,
    which the API's rules, that see the sum as one objective, cannot know.
    """
    pairing = spec.data.pairing
    if pairing is not None:
        needed = {}
        if pairing.value.needs_scores:
            needed["scores"] = f"data.pairing.{pairing.key}"
        if pairing.value.needs_safe:
            needed["safe"] = f"data.pairing.{pairing.key}"
        _refuse_lost_scores(spec, pairing.value.gives_scores, f"data.pairing.{pairing.key}")
        return needed
    _refuse_lost_scores(spec, spec.data.length_instruction is None, "data.lengthInstruction")
    needed = {}
    for part in spec.objective.value.parts():
        here = f"objective.{part.member_key}"
        if part.needs_scores:
            columns = ("scores",) if part.data_shape == "lists" else ("chosen_score", "rejected_score")
            needed.update(dict.fromkeys(columns, here))
        if part.needs_prefix:
            needed["prefix"] = here
    return needed


def check_rows(rows: Sequence[Any], spec: PreferenceJobSpec) -> None:
    """Refuses, by file and line, scores that are no probabilities where an objective takes them for such."""
    needing = [part for part in spec.objective.value.parts() if part.scores_are_probabilities]
    if not needing:
        return
    problems = [
        f"{row.place}: the score {score:g} is not between 0 and 1; objective.{needing[0].member_key} takes scores for "
        "probabilities"
        for row in rows
        for score in _scores(row)
        if not 0 <= score <= 1
    ]
    if problems:
        raise DataError(listed(problems, "scores that are no probabilities"))


def _scores(row: Any) -> list[float]:
    if isinstance(row, ListRow):
        return row.scores or []
    if isinstance(row, PairRow):
        return [score for score in (row.chosen_score, row.rejected_score) if score is not None]
    return []


def _refuse_lost_scores(spec: PreferenceJobSpec, kept: bool, where: str) -> None:
    needing = [part.member_key for part in spec.objective.value.parts() if part.needs_scores]
    if needing and not kept:
        raise ConfigError(f"{where} must not be set: its pairs have no scores, and objective.{needing[0]} needs them")
