"""What a curriculum says of itself besides its parameters."""

from __future__ import annotations

from typing import ClassVar

from plumbline_api.base import Family


class Curriculum(Family):
    """Which prompts a rollout takes."""

    probes: ClassVar[bool] = False
    """Whether `probeSamples` completions of every prompt are judged before the first step."""
