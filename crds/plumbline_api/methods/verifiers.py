"""Verifiers: what turns a completion into a reward."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from plumbline_api.base import Choice, Family
from plumbline_api.rules import Rule, has


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


RegularExpression = Annotated[str, AfterValidator(_compiles)]
"""A Python regular expression. Only Python can tell whether it is one, so the API server checks its length alone."""


class Verifier(Family):
    """Scores one completion of one prompt."""

    needs_answer: ClassVar[bool] = True
    """Whether every row must carry an `answer`."""


class ExactMatch(Verifier, key="exactMatch"):
    """1 if the completion equals the answer, else 0."""

    strip: bool = Field(True, description="Ignore white space at both ends.")
    ignore_case: bool = Field(False, description="Ignore letter case.")
    extract: RegularExpression | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="Regular expression whose first group (or whole match) in the completion is compared; the last match counts. Without a match the reward is 0.",
    )


class Numeric(Verifier, key="numeric"):
    """1 if the last number in the completion equals the answer within a tolerance, else 0."""

    absolute_tolerance: float = Field(0.0, ge=0, le=1e12, description="Largest allowed absolute difference.")
    relative_tolerance: float = Field(
        1e-9, ge=0, le=1, description="Largest allowed difference relative to the answer."
    )


class Math(Verifier, key="math"):
    """1 if the completion's final expression is mathematically equal to the answer (math-verify), else 0."""


class Regex(Verifier, key="regex"):
    """Format reward: 1 if the regular expression matches the completion, else 0."""

    needs_answer = False

    pattern: RegularExpression = Field(min_length=1, max_length=1024, description="Python regular expression.")
    mode: Literal["search", "fullMatch"] = Field(
        "fullMatch", description="Whether the whole completion must match or any part of it."
    )


class PythonFunction(Verifier, key="python"):
    """A user's function `verify(prompt, completion, answer, row) -> float`, mounted from a ConfigMap and run in a separate process that sees none of the runtime's environment variables."""

    needs_answer = False

    rules: ClassVar = (Rule(has("configMap").differs(has("path")), "exactly one of configMap and path must be set"),)

    config_map: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        description="ConfigMap that holds the code. Give this in a cluster; give `path` when running the trainer by itself.",
    )
    path: str | None = Field(
        None, min_length=1, max_length=1024, description="File with the code, when running the trainer by itself."
    )
    file: str = Field(
        "reward.py", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key of the ConfigMap."
    )
    function: str = Field(
        "verify", min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the function."
    )


class VerifierChoice(Choice, family=Verifier):
    """How the component scores a completion: exactly one verifier."""
