"""The one-of of all steps of reward shaping."""

from __future__ import annotations

from plumbline_api.base import Choice
from plumbline_api.methods.shaping import (  # noqa: F401  (importing a module declares its members)
    bandit,
    constrained,
    gating,
    length,
    noise,
    progress,
    refinement,
    thinking,
    weights,
)
from plumbline_api.methods.shaping.family import Shaping


class ShapingChoice(Choice, family=Shaping):
    """A step of reward shaping: exactly one method with its parameters."""
