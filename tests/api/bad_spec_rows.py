"""What a row of the tables of bad specs and bad updates says.

`path` and `message` are what operator and trainer say. `judge` says how the API server knows:

- `bounds`: by the schema; it names the same path in its own words.
- `rule`: by a CEL rule; it says the same message.
- `unknown`: the field is not in the schema; it says `unknown field` with the same path.
- `code`: it cannot know, because only code can tell; operator and trainer refuse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Judge = Literal["bounds", "rule", "unknown", "code"]
Patch = dict[str, Any]


@dataclass(frozen=True)
class BadSpec:
    """A valid object of `kind` with `patch` applied must be refused."""

    name: str
    kind: str
    patch: Patch
    path: str
    message: str
    judge: Judge = "bounds"


@dataclass(frozen=True)
class BadUpdate:
    """A valid object of `kind` with `before` applied exists; applying `patch` to it must be refused."""

    name: str
    kind: str
    patch: Patch
    path: str
    message: str
    before: Patch = field(default_factory=dict)
