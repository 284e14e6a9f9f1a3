"""The last words: one JSON object in the termination log, and the same in plain words on the standard error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from plumbline_api.contract import TerminationMessage

MAX_BYTES = 4096
"""What the kubelet reads of a termination log."""

MAX_MESSAGE = 2048


def compose(reason: str, message: str, **fields: Any) -> TerminationMessage:
    """The message with its text cut to what the contract allows; `fields` are the other fields of the message."""
    return TerminationMessage(reason=reason, message=shorten(message, MAX_MESSAGE), **fields)


def encode(message: TerminationMessage) -> bytes:
    """At most `MAX_BYTES` of JSON: first metrics are given up from the end, then the middle of the text."""
    trimmed = message
    while len(body := _json(trimmed)) > MAX_BYTES and trimmed.metrics:
        trimmed = trimmed.model_copy(update={"metrics": trimmed.metrics[: len(trimmed.metrics) * 3 // 4]})
    length = len(trimmed.message)
    while len(body := _json(trimmed)) > MAX_BYTES and length > 64:
        length = length * 3 // 4
        trimmed = trimmed.model_copy(update={"message": shorten(message.message, length)})
    return body


def write(message: TerminationMessage, path: Path) -> None:
    """Writes the termination log where there is one. Without a cluster there is none, which is no error."""
    try:
        # never created: in a container the kubelet has mounted it, elsewhere /dev is no place for files
        if path.exists() or not path.is_relative_to("/dev"):
            path.write_bytes(encode(message))
    except OSError as error:
        print(f"the termination log {path} cannot be written: {error}", file=sys.stderr)


def shorten(text: str, length: int) -> str:
    """At most `length` characters: the beginning and the end of `text`, which say most."""
    if len(text) <= length:
        return text
    head = length * 2 // 3
    return text[:head] + " [...] " + text[len(text) - (length - head - 7) :]


def _json(message: TerminationMessage) -> bytes:
    return message.model_dump_json(by_alias=True, exclude_none=True).encode()
