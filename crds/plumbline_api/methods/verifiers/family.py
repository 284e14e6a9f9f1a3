"""What a verifier says of itself besides its parameters."""

from __future__ import annotations

from typing import ClassVar

from plumbline_api.base import Family


class Verifier(Family):
    """Scores one completion of one prompt."""

    needs_answer: ClassVar[bool] = True
    """Whether every row must carry an `answer`."""
