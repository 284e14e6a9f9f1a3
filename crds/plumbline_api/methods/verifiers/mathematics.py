"""Verifiers of numbers and formulas."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.verifiers.family import Verifier


class Numeric(Verifier, key="numeric"):
    """1 if the last number in the completion equals the answer within a tolerance, else 0."""

    absolute_tolerance: float = Field(0.0, ge=0, le=1e12, description="Largest allowed absolute difference.")
    relative_tolerance: float = Field(
        1e-9, ge=0, le=1, description="Largest allowed difference relative to the answer."
    )


class Math(Verifier, key="math"):
    """1 if the completion's final expression is mathematically equal to the answer (math-verify), else 0."""
