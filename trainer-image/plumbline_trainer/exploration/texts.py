"""Texts that rows bring along to help: hints, which go into the prompt, and solutions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from plumbline_trainer.data.conversations import Prompt
from plumbline_trainer.data.rows import listed
from plumbline_trainer.failures import DataError

_PLACES = re.compile(r"\{(prompt|hint)\}")


def texts_of(
    column: str, columns: Sequence[Mapping[str, Any]], places: Sequence[str], needed_by: str
) -> list[str | None]:
    """The text that each row has in `column`; None where it has none, which is allowed for some rows.

    `needed_by` is the field that asks for it, such as exploration.rescue.gold. Raises `DataError` naming file and line
    for a value that is no text, and where no row has any.
    """
    values = [row.get(column) for row in columns]
    problems = [
        f"{place}: {column} must be text for {needed_by}, but it is a {type(value).__name__}"
        for place, value in zip(places, values, strict=True)
        if value is not None and not isinstance(value, str)
    ]
    if problems:
        raise DataError(listed(problems, "rows with other values"))
    texts = [value if value and value.strip() else None for value in values]
    if not any(texts):
        raise DataError(f"no row has a text in the column {column}, which {needed_by} reads")
    return texts


def hinted(prompt: Prompt, hint: str, template: str) -> Prompt:
    """The prompt, or the last message of a chat, put into `template` with the hint."""

    def filled(text: str) -> str:
        return _PLACES.sub(lambda match: {"prompt": text, "hint": hint}[match[1]], template)

    if isinstance(prompt, str):
        return filled(prompt)
    return [*prompt[:-1], {**prompt[-1], "content": filled(prompt[-1]["content"])}]
