"""The shapes of rows: pairs, unpaired, completions, lists, prompts. Malformed rows are refused by file and line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from plumbline_api.methods.preference.family import DataShape
from plumbline_api.sources import DatasetColumns, RowSet
from plumbline_trainer.data.conversations import (
    BadRow,
    Message,
    Prompt,
    present,
    read_completion,
    read_exchange,
    read_prompt,
)
from plumbline_trainer.data.files import FileRow, digest, json_type, read_rows
from plumbline_trainer.data.search_trees import TreeRow, read_tree
from plumbline_trainer.data.valued_steps import StepsRow, read_steps
from plumbline_trainer.failures import DataError

__all__ = ["CompletionRow", "ListRow", "Message", "PairRow", "Prompt", "PromptRow", "UnpairedRow", "load_rows"]

MAX_LISTED = 5
"""Bad rows that a message names before it only counts them."""

LARGEST_SCORE = 1e18
"""Differences of scores, and their powers relative to each other, then stay far from what 32 bits can hold."""


@dataclass(frozen=True)
class PairRow:
    """A prompt with a preferred and another completion."""

    place: str
    prompt: Prompt
    chosen: str
    rejected: str

    prefix: str = ""
    """Beginning of the assistant's answer, which both completions continue."""

    final: bool = True
    """Whether the completions end the assistant's answer; steps in its midst do not."""

    chosen_score: float | None = None
    rejected_score: float | None = None
    """Both or neither."""


@dataclass(frozen=True)
class UnpairedRow:
    """A prompt with one completion and whether it is desirable."""

    place: str
    prompt: Prompt
    completion: str
    label: bool


@dataclass(frozen=True)
class CompletionRow:
    """A prompt with the completion to imitate."""

    place: str
    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class ListRow:
    """A prompt with K >= 2 completions and what is known about each."""

    place: str
    prompt: Prompt
    completions: list[str]

    scores: list[float] | None = None
    """K numbers, higher is better."""

    safe: list[bool] | None = None
    """Which of the K completions are safe."""


@dataclass(frozen=True)
class PromptRow:
    """A prompt to be answered, with what verifiers need."""

    place: str
    prompt: Prompt
    answer: str | None
    """The reference answer as text; None where the file has none."""

    columns: dict[str, Any]
    """All columns of the file's row."""


Shape = DataShape | Literal["trees", "steps", "prompts"]

Needed = Mapping[str, str]
"""Field of `DatasetColumns` that rows of this job must fill -> what needs it, such as `objective.odpo`."""


@dataclass(frozen=True)
class Rows:
    """The rows of one data set and the digest of what was read."""

    rows: list[Any]
    digest: str
    rows_in_file: int
    equal_texts: int = 0
    """Pairs that were left out because they state no preference."""


class _EqualTexts(BadRow):
    """A pair of equal completions."""


def load_rows(
    location: str,
    dataset: RowSet,
    shape: Shape,
    *,
    max_rows: int | None = None,
    needed: Needed | None = None,
    drop_equal_texts: bool = False,
    source: str = "",
) -> Rows:
    """Reads and checks the rows of `dataset`, whose file is at `location`.

    `max_rows` limits the data set further than `dataset.max_rows` does; `source` is the data set's name among several.
    Raises `DataError` that names the first bad
    rows and counts the others.
    """
    limits = [limit for limit in (dataset.max_rows, max_rows) if limit is not None]
    found = read_rows(location, file_format=dataset.format, max_rows=min(limits, default=None), source=source)
    rows, equal_texts = shape_rows(found, dataset.columns, shape, needed=needed, drop_equal_texts=drop_equal_texts)
    return Rows(rows, digest(found), len(found), equal_texts)


def shape_rows(
    found: Sequence[FileRow],
    columns: DatasetColumns,
    shape: Shape,
    *,
    needed: Needed | None = None,
    drop_equal_texts: bool = False,
) -> tuple[list[Any], int]:
    """Checks file rows and gives them their shape; returns them and the number of pairs dropped for equal texts."""
    parse = _PARSERS[shape]
    rows, problems, equal = [], [], 0
    for row in found:
        try:
            rows.append(parse(row, columns, needed or {}))
        except _EqualTexts as error:
            equal += 1
            if not drop_equal_texts:
                problems.append(f"{row.place}: {error}")
        except BadRow as error:
            problems.append(f"{row.place}: {error}")
    if problems:
        raise DataError(listed(problems, "bad rows"))
    return rows, equal


def listed(problems: Sequence[str], what: str) -> str:
    """The first few problems, one a line, and the number of the others."""
    text = "\n".join(problems[:MAX_LISTED])
    rest = len(problems) - MAX_LISTED
    return f"{text}\nand {rest} more {what}" if rest > 0 else text


def _pair(row: FileRow, columns: DatasetColumns, needed: Needed) -> PairRow:
    prompt, (chosen, rejected) = read_exchange(row.values, columns.prompt, [columns.chosen, columns.rejected])
    prefix = _optional(row, columns.prefix, str, "text", needed.get("prefix"))
    final = _optional(row, columns.final, bool, "true or false", None)
    if final is None:
        final = prefix is None
    scores = [
        _number(row.values.get(name), name, needed.get(field))
        for field, name in (("chosen_score", columns.chosen_score), ("rejected_score", columns.rejected_score))
    ]
    better, worse = scores if None not in scores else (None, None)
    if needed.get("chosen_score") and better is not None and worse is not None and better < worse:
        raise BadRow(f"{columns.chosen_score} is below {columns.rejected_score}: the scores contradict the pair")
    if chosen == rejected:
        raise _EqualTexts(f"{columns.chosen} and {columns.rejected} are equal: the pair states no preference")
    return PairRow(row.place, prompt, chosen, rejected, prefix or "", final, better, worse)


def _unpaired(row: FileRow, columns: DatasetColumns, needed: Needed) -> UnpairedRow:
    label = present(row.values, columns.label)
    if not isinstance(label, bool):
        raise BadRow(f"{columns.label} must be true or false, found {json_type(label)}")
    prompt, (completion,) = read_exchange(row.values, columns.prompt, [columns.completion])
    return UnpairedRow(row.place, prompt, completion, label)


def _supervised(row: FileRow, columns: DatasetColumns, needed: Needed) -> CompletionRow:
    prompt, (completion,) = read_exchange(row.values, columns.prompt, [columns.completion])
    return CompletionRow(row.place, prompt, completion)


def _list(row: FileRow, columns: DatasetColumns, needed: Needed) -> ListRow:
    prompt = read_prompt(row.values, columns.prompt)
    values = present(row.values, columns.completions)
    if not isinstance(values, list):
        raise BadRow(f"{columns.completions} must be a list, found {json_type(values)}")
    if len(values) < 2:
        raise BadRow(f"{columns.completions} must have at least two completions, found {len(values)}")
    completions = [read_completion(value, f"{columns.completions}[{k}]", prompt) for k, value in enumerate(values)]
    scores = _one_each(row, columns.scores, len(completions), needed.get("scores"), _number)
    safe = _one_each(row, columns.safe, len(completions), needed.get("safe"), _boolean)
    return ListRow(row.place, prompt, completions, scores, safe)


def _tree(row: FileRow, columns: DatasetColumns, needed: Needed) -> TreeRow:
    return TreeRow(row.place, read_prompt(row.values, columns.prompt), read_tree(row.values))


def _steps(row: FileRow, columns: DatasetColumns, needed: Needed) -> StepsRow:
    return StepsRow(row.place, read_prompt(row.values, columns.prompt), read_steps(row.values))


def _problem(row: FileRow, columns: DatasetColumns, needed: Needed) -> PromptRow:
    return PromptRow(row.place, read_prompt(row.values, columns.prompt), _answer(row, columns.answer), row.values)


Parser = Callable[[FileRow, DatasetColumns, Needed], Any]
_PARSERS: dict[str, Parser] = {
    "pairs": _pair,
    "unpaired": _unpaired,
    "completions": _supervised,
    "lists": _list,
    "trees": _tree,
    "steps": _steps,
    "prompts": _problem,
}


def _optional(row: FileRow, column: str, kind: type, called: str, needed_by: str | None) -> Any:
    """The value of a column that may be missing unless something needs it."""
    value = row.values.get(column)
    if value is None:
        if needed_by:
            raise BadRow(f"{column} is missing; {needed_by} needs it")
        return None
    if not isinstance(value, kind):
        raise BadRow(f"{column} must be {called}, found {json_type(value)}")
    return value


def _one_each(
    row: FileRow, column: str, count: int, needed_by: str | None, read: Callable[[Any, str, str | None], Any]
) -> list[Any] | None:
    """A list with one value for each completion."""
    values = _optional(row, column, list, "a list", needed_by)
    if values is None:
        return None
    if len(values) != count:
        raise BadRow(f"{column} has {len(values)} entries for {count} completions")
    return [read(value, f"{column}[{k}]", f"completion {k}") for k, value in enumerate(values)]


def _number(value: Any, column: str, needed_by: str | None) -> float | None:
    if value is None:
        if needed_by:
            raise BadRow(f"{column} is missing; {needed_by} needs it")
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise BadRow(f"{column} must be a number, found {json_type(value)}")
    if not abs(value) <= LARGEST_SCORE:  # not a number compares false
        raise BadRow(f"{column} must be a number of at most {LARGEST_SCORE:g} in size")
    return float(value)


def _boolean(value: Any, column: str, needed_by: str | None) -> bool:
    if not isinstance(value, bool):
        raise BadRow(f"{column} must be true or false, found {json_type(value)}")
    return value


def _answer(row: FileRow, column: str) -> str | None:
    value = row.values.get(column)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise BadRow(f"{column} must be text or a number, found {json_type(value)}")
