"""Where in a completion its program stands."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"^[ \t]*```[ \t]*([^\s`]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = ("python", "py", "python3")


def program_span(completion: str) -> tuple[int, int]:
    """Begin and end of the last fenced block that says it is Python, else the last one that says nothing, else of the
    whole text.

    A block that is still open at the end, as in a completion that was cut, counts.
    """
    blocks = list(_BLOCK.finditer(completion))
    for languages in (_PYTHON, ("",)):
        if found := [block for block in blocks if block[1].lower() in languages]:
            return found[-1].span(2)
    return 0, len(completion)
