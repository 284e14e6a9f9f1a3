"""Verifiers of numbers and formulas."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.verifiers.family import Verifier


class Numeric(Verifier, key="numeric"):
    """1 if the last number in the completion equals the answer within a tolerance, else 0 or, with `shape: fuzzy`, the less the further it is off (CrowdVLM-R1: Expanding R1 Ability to Vision Language Model for Crowd Counting using Fuzzy Group Relative Policy Reward)."""

    absolute_tolerance: float = Field(0.0, ge=0, le=1e12, description="Largest allowed absolute difference.")
    relative_tolerance: float = Field(
        1e-9, ge=0, le=1, description="Largest allowed difference relative to the answer."
    )
    shape: Literal["exact", "fuzzy"] = Field(
        "exact",
        description="exact: 0 beyond the tolerance. fuzzy: 1 minus the error beyond the tolerance relative to the answer's size, at least 0.",
    )
    least_scale: float = Field(
        0.0,
        ge=0,
        le=1e12,
        description="Size that errors are taken relative to (fuzzy) where the answer is smaller; at 0 an answer of 0 leaves no room for error.",
    )


class Math(Verifier, key="math"):
    """1 if the completion's final expression is mathematically equal to the answer, else 0: plain numbers are compared exactly, everything else by math-verify."""
