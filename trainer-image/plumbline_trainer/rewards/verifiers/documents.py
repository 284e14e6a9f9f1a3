"""JSON documents as models write them."""

from __future__ import annotations

import json
import re
from typing import Any

NO_DOCUMENT = object()
"""What is read from a text that is no JSON."""

_FENCED = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)\n?\s*```", re.DOTALL)


def read_document(text: str, *, allow_fence: bool) -> Any:
    """The document that `text` is, or that its one Markdown code block holds; `NO_DOCUMENT` where it is none.

    NaN and Infinity, which Python reads, are no JSON.
    """
    text = text.strip()
    if allow_fence and (fenced := _FENCED.fullmatch(text)):
        text = fenced[1]
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NO_DOCUMENT


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
