"""Columns of the training rows that the methods of an RLVR job read."""

from __future__ import annotations

from collections.abc import Sequence

from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.curriculum import Curriculum, Prompts, open_curriculum
from plumbline_trainer.data.rows import PromptRow, listed
from plumbline_trainer.exploration import texts_of
from plumbline_trainer.failures import DataError


def check_columns(spec: RLVRJobSpec, rows: Sequence[PromptRow]) -> None:
    """Refuses rows that lack a column which a method reads. Raises `DataError` naming file and line."""
    readers = [(f"advantage.{spec.estimator.member_key}", spec.estimator.columns)]
    readers += [(f"shaping[{index}].{step.key}", step.value.columns) for index, step in enumerate(spec.shaping)]
    _refuse_missing(readers, rows)
    rescue_texts(spec, rows)
    curriculum_of(spec, rows)


def check_held_out_columns(spec: RLVRJobSpec, rows: Sequence[PromptRow]) -> None:
    """As `check_columns`, of held-out rows and what is measured of their completions."""
    readers = [
        (f"shaping[{index}].{step.key}", step.value.columns)
        for index, step in enumerate(spec.shaping)
        if step.value.measures_held_out
    ]
    _refuse_missing(readers, rows)


def _refuse_missing(readers: Sequence[tuple[str, Sequence[str]]], rows: Sequence[PromptRow]) -> None:
    problems = [
        f"{row.place}: {column} is missing; {reader} reads it"
        for reader, columns in readers
        for column in columns
        for row in rows
        if column not in row.columns
    ]
    if problems:
        raise DataError(listed(problems, "rows that lack a column"))


def rescue_texts(spec: RLVRJobSpec, rows: Sequence[PromptRow]) -> list[str | None]:
    """The hint or the solution of each row, None where it has none; nothing where no rescue reads any."""
    if spec.exploration.rescue is None:
        return []
    rescue = spec.exploration.rescue.value
    column = getattr(rescue, rescue.column_field)
    return texts_of(
        column,
        [row.columns for row in rows],
        [row.place for row in rows],
        f"exploration.rescue.{rescue.member_key}",
    )


def curriculum_of(spec: RLVRJobSpec, rows: Sequence[PromptRow]) -> Curriculum:
    """The job's curriculum over its training rows."""
    prompts = Prompts([row.columns for row in rows], [row.place for row in rows], spec.training.seed, spec.data.shuffle)
    return open_curriculum(None if spec.curriculum is None else spec.curriculum.value, prompts)
