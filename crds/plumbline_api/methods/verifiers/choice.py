"""The one-of of all verifiers."""

from __future__ import annotations

from plumbline_api.base import Choice
from plumbline_api.methods.verifiers import (  # noqa: F401  (importing a module declares its members)
    code,
    command,
    generated,
    instructions,
    judges,
    learned,
    mathematics,
    pairwise,
    python,
    schema,
    text,
)
from plumbline_api.methods.verifiers.family import Verifier


class VerifierChoice(Choice, family=Verifier):
    """How the component scores a completion: exactly one verifier."""
