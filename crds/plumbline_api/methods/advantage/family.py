"""What an advantage estimator says of itself besides its parameters."""

from __future__ import annotations

from typing import ClassVar

from plumbline_api.base import Family


class Advantage(Family):
    """How rewards become advantages."""

    needs_group: ClassVar[bool] = False
    """Whether the estimator compares samples of one prompt, so that a group of one has no signal."""

    needs_values: ClassVar[bool] = False
    """Whether it uses the values of a critic, which is then trained beside the policy."""
