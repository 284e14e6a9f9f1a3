"""Verifiers of prompts that a generator made."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.regular_expression import RegularExpression
from plumbline_api.methods.verifiers.family import Verifier


class ReasoningGymScore(Verifier, key="reasoningGym"):
    """What the task of reasoning-gym gives the completion: 1 if it solves the problem, less or 0 if it does not. For rows of the generator `reasoningGym`."""

    needs_answer = False

    extract: RegularExpression | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="Regular expression whose first group (or whole match) in the completion is the answer; the last match counts, and without a match the reward is 0. Default: the whole completion, white space at its ends aside.",
    )
    partial_credit: bool = Field(
        True, description="Whether answers that are partly right, or only well-formed, earn what the task gives them."
    )
