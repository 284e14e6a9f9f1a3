"""What trainers say, read as the words of strangers (pure).

The image of a job may be anybody's, and a pod that was broken into says what its intruder likes. What comes from it
ends in a status, in events and in terminals of people, so it is bounded and cleaned here, once, before any other part
of the operator sees it: `/v1/status` (`read_report`) and the termination message (`read_last_words`). Either is taken
whole or refused whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json

from plumbline_api.contract import StatusReport, TerminationMessage

MOST_BYTES = 64 * 1024
"""Of a status report; a termination message is bounded by the kubelet."""
DEEPEST = 8
"""Levels of lists and objects; the models have four."""
LARGEST_WHOLE_NUMBER = 2**53 - 1
"""The largest that every reader of JSON takes for the same number; the API server refuses more than 64 bits."""
EARLIEST_YEAR, LATEST_YEAR = 2000, 2200
"""Outside of these years arithmetic with times may overflow, and nothing true is said."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ufeff]"
)
"""Control characters but tab and line feed, and what turns the direction of text: they change what a terminal shows."""
_REPLACEMENT = "\ufffd"

Said = TypeVar("Said", StatusReport, TerminationMessage)


def read_report(body: bytes) -> StatusReport:
    """The body of `/v1/status`; raises ValueError when it is not one, or not within bounds."""
    if len(body) > MOST_BYTES:
        raise ValueError(f"the status report is longer than {MOST_BYTES} bytes")
    return _read(StatusReport, body)


def read_last_words(text: str) -> TerminationMessage:
    """A termination message; raises ValueError when it is not one, or not within bounds."""
    return _read(TerminationMessage, text)


def _read(model: type[Said], text: bytes | str) -> Said:
    # The parser itself refuses endless nesting, half of a surrogate pair and numbers of thousands of digits.
    said = model.model_validate(_clean(from_json(text, allow_inf_nan=False), DEEPEST))
    for time in _times(said):
        if time.tzinfo is None:
            raise ValueError(f"the time {time.isoformat()} is of no time zone")
        if not EARLIEST_YEAR <= time.year <= LATEST_YEAR:
            raise ValueError(f"the year {time.year} is out of bounds")
    return said


def _clean(value: Any, levels: int) -> Any:
    """The same document with its texts made harmless; raises ValueError when it is too deep or a number too large."""
    if isinstance(value, str):
        return _INVISIBLE.sub(_REPLACEMENT, value)
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE_NUMBER:
        raise ValueError(f"a whole number is larger than {LARGEST_WHOLE_NUMBER}")
    if isinstance(value, (list, dict)) and levels == 0:
        raise ValueError(f"the document has more than {DEEPEST} levels")
    if isinstance(value, list):
        return [_clean(part, levels - 1) for part in value]
    if isinstance(value, dict):
        return {_clean(name, 0): _clean(part, levels - 1) for name, part in value.items()}
    return value


def _times(value: Any) -> Iterator[datetime]:
    """All times in a model."""
    if isinstance(value, datetime):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _times(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _times(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _times(part)
