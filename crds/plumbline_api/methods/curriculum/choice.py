"""The one-of of all curricula."""

from __future__ import annotations

from plumbline_api.base import Choice
from plumbline_api.methods.curriculum import adaptive, probed  # noqa: F401  (importing a module declares its members)
from plumbline_api.methods.curriculum.family import Curriculum


class CurriculumChoice(Choice, family=Curriculum):
    """Which prompts a rollout takes: exactly one curriculum."""
