"""The shapes of rows: pairs, unpaired, completions, prompts. Malformed rows are refused by file and line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from plumbline_api.methods.preference.family import DataShape
from plumbline_api.sources import Dataset, DatasetColumns
from plumbline_trainer.data.files import FileRow, digest, json_type, read_rows
from plumbline_trainer.failures import DataError

Message = dict[str, str]
Prompt = str | list[Message]
"""Plain text, or chat messages `{"role": ..., "content": ...}` of which the last is not the assistant's."""

MAX_LISTED = 5
"""Bad rows that a message names before it only counts them."""


@dataclass(frozen=True)
class PairRow:
    """A prompt with a preferred and another completion."""

    place: str
    prompt: Prompt
    chosen: str
    rejected: str


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
class PromptRow:
    """A prompt to be answered, with what verifiers need."""

    place: str
    prompt: Prompt
    answer: str | None
    """The reference answer as text; None where the file has none."""

    columns: dict[str, Any]
    """All columns of the file's row."""


PreferenceRow = PairRow | UnpairedRow | CompletionRow
Shape = DataShape | Literal["prompts"]
RowType = TypeVar("RowType", bound=PreferenceRow | PromptRow)


@dataclass(frozen=True)
class Rows:
    """The rows of one data set and the digest of what was read."""

    rows: list[Any]
    digest: str


class _BadRow(Exception):
    """What is wrong with a row, without its place."""


def load_rows(location: str, dataset: Dataset, shape: Shape, *, max_rows: int | None = None) -> Rows:
    """Reads and checks the rows of `dataset`, whose file is at `location`.

    `max_rows` limits the data set further than `dataset.max_rows` does. Raises `DataError` that names the first bad
    rows and counts the others.
    """
    limits = [limit for limit in (dataset.max_rows, max_rows) if limit is not None]
    found = read_rows(location, file_format=dataset.format, max_rows=min(limits, default=None))
    return Rows(shape_rows(found, dataset.columns, shape), digest(found))


def shape_rows(found: Sequence[FileRow], columns: DatasetColumns, shape: Shape) -> list[Any]:
    """Checks file rows and gives them their shape."""
    parse = _PARSERS[shape]
    rows, problems = [], []
    for row in found:
        try:
            rows.append(parse(row, columns))
        except _BadRow as error:
            problems.append(f"{row.place}: {error}")
    if problems:
        raise DataError(listed(problems, "bad rows"))
    return rows


def listed(problems: Sequence[str], what: str) -> str:
    """The first few problems, one a line, and the number of the others."""
    text = "\n".join(problems[:MAX_LISTED])
    rest = len(problems) - MAX_LISTED
    return f"{text}\nand {rest} more {what}" if rest > 0 else text


def _pair(row: FileRow, columns: DatasetColumns) -> PairRow:
    chosen = _completion(row, columns.chosen)
    rejected = _completion(row, columns.rejected)
    if chosen == rejected:
        raise _BadRow(f"{columns.chosen} and {columns.rejected} are equal: the pair states no preference")
    return PairRow(row.place, _prompt(row, columns.prompt), chosen, rejected)


def _unpaired(row: FileRow, columns: DatasetColumns) -> UnpairedRow:
    label = _present(row, columns.label)
    if not isinstance(label, bool):
        raise _BadRow(f"{columns.label} must be true or false, found {json_type(label)}")
    return UnpairedRow(row.place, _prompt(row, columns.prompt), _completion(row, columns.completion), label)


def _supervised(row: FileRow, columns: DatasetColumns) -> CompletionRow:
    return CompletionRow(row.place, _prompt(row, columns.prompt), _completion(row, columns.completion))


def _problem(row: FileRow, columns: DatasetColumns) -> PromptRow:
    return PromptRow(row.place, _prompt(row, columns.prompt), _answer(row, columns.answer), row.values)


_PARSERS: dict[str, Callable[[FileRow, DatasetColumns], Any]] = {
    "pairs": _pair,
    "unpaired": _unpaired,
    "completions": _supervised,
    "prompts": _problem,
}


def _present(row: FileRow, column: str) -> Any:
    if row.values.get(column) is None:
        raise _BadRow(f"{column} is missing")
    return row.values[column]


def _prompt(row: FileRow, column: str) -> Prompt:
    value = _present(row, column)
    if isinstance(value, str):
        if not value.strip():
            raise _BadRow(f"{column} is empty")
        return value
    if not isinstance(value, list):
        raise _BadRow(f"{column} must be text or a list of chat messages, found {json_type(value)}")
    messages = _messages(value, column)
    if messages[-1]["role"] == "assistant":
        raise _BadRow(f"{column} must not end with an assistant message: that is the completion")
    return messages


def _completion(row: FileRow, column: str) -> str:
    value = _present(row, column)
    if isinstance(value, list):
        messages = _messages(value, column)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise _BadRow(f"{column} must be text or a list of one assistant message, found {len(messages)} messages")
        value = messages[0]["content"]
    if not isinstance(value, str):
        raise _BadRow(f"{column} must be text, found {json_type(value)}")
    if not value:
        raise _BadRow(f"{column} is empty")
    return value


def _messages(value: list[Any], column: str) -> list[Message]:
    if not value:
        raise _BadRow(f"{column} is an empty list")
    messages = []
    for index, message in enumerate(value):
        if not isinstance(message, dict):
            raise _BadRow(f"{column}[{index}] must be a message with role and content, found {json_type(message)}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise _BadRow(f"{column}[{index}].{key} must be text, found {json_type(message.get(key))}")
        messages.append({"role": message["role"], "content": message["content"]})
    return messages


def _answer(row: FileRow, column: str) -> str | None:
    value = row.values.get(column)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise _BadRow(f"{column} must be text or a number, found {json_type(value)}")
