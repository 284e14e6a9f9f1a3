"""What a step of reward shaping says of itself besides its parameters."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from plumbline_api.base import Family

ComponentName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]([a-z0-9_]*[a-z0-9])?$")]
"""The name of a component of `spec.rewards`."""

ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
"""A column of the prompts' rows."""


class Shaping(Family):
    """A step between verifying and advantages: the rewards of a whole rollout become others."""

    needs_token_positions: ClassVar[bool] = False
    """Whether it rewards places of the text, which must be found again among the tokens."""

    needs_component_gradients: ClassVar[bool] = False
    """Whether it compares the gradients of the reward's components."""

    needs_prefix_values: ClassVar[bool] = False
    """Whether it needs the success rate of every prefix of a completion."""

    measures_held_out: ClassVar[bool] = False
    """Whether its metrics say something of held-out completions, too, so that evaluations show them."""

    removed_by_baselines: ClassVar[bool] = False
    """Whether it only adds the same number to all rewards, so that it does nothing where a baseline is subtracted."""

    changes_scale: ClassVar[bool] = False
    """Whether it only multiplies all rewards of a rollout by one number, so that it does nothing where advantages are
    divided by their scale."""

    @property
    def component_names(self) -> tuple[str, ...]:
        """Components of `spec.rewards` that must exist."""
        return ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that every row of data must have."""
        return ()
