"""The one-of of all advantage estimators."""

from __future__ import annotations

from plumbline_api.base import Choice
from plumbline_api.methods.advantage import (  # noqa: F401  (importing a module declares its members)
    batch,
    difficulty,
    group,
    ranking,
    traces,
    trees,
    values,
)
from plumbline_api.methods.advantage.family import Advantage


class AdvantageChoice(Choice, family=Advantage):
    """How rewards become advantages: exactly one estimator."""
