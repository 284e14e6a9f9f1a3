"""The stages of exploration, each a family, and what their members say of themselves."""

from __future__ import annotations

from typing import ClassVar

from plumbline_api.base import Family


class SampleBudget(Family):
    """How many samples each prompt of a rollout gets; their sum stays the same."""


class Resampling(Family):
    """What more is sampled once the first samples are judged."""


class Rescue(Family):
    """What is done about a prompt whose samples all fail."""

    column_field: ClassVar[str] = ""
    """Field that names the column which it reads of every row, by wire name; empty where it reads none."""


class SampleSelection(Family):
    """Which judged samples are learnt from."""

    component_field: ClassVar[str] = ""
    """Field that names the reward component which it reads, by wire name; empty where it reads none."""


class Replay(Family):
    """Which samples of earlier rollouts are learnt from again."""
