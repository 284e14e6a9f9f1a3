"""What a verifier says of itself besides its parameters."""

from __future__ import annotations

from typing import ClassVar

from plumbline_api.base import Family


class Verifier(Family):
    """Scores one completion of one prompt."""

    needs_answer: ClassVar[bool] = True
    """Whether every row must carry an `answer`."""

    in_batches: ClassVar[bool] = False
    """Whether it scores many completions at once, in the trainer's own process, and not one after another in the
    processes of verifiers."""

    compares_group: ClassVar[bool] = False
    """Whether it compares the completions of one prompt with each other: what it says of one then depends on the
    others, and nothing is said of a completion that is scored alone, such as those of evaluations."""
