"""What an advantage estimator says of itself besides its parameters."""

from __future__ import annotations

from typing import ClassVar

from plumbline_api.base import Family


class Advantage(Family):
    """How rewards become advantages."""

    needs_group: ClassVar[bool] = False
    """Whether the estimator compares samples of one prompt, so that a group of one has no signal."""

    needs_values: ClassVar[bool] = False
    """Whether it uses the values of a critic, which is then trained beside the policy unless it is frozen."""

    needs_frozen_values: ClassVar[bool] = False
    """Whether that critic must be frozen."""

    needs_greedy: ClassVar[bool] = False
    """Whether it compares with the reward of the prompt's greedy completion."""

    needs_continuations: ClassVar[bool] = False
    """Whether it uses rewards of further completions that start from prefixes of the sampled ones."""

    needs_policy_logprobs: ClassVar[bool] = False
    """Whether it uses log-probabilities under the policy as it is now besides those of the policy that sampled."""

    uses_token_rewards: ClassVar[bool] = False
    """Whether rewards of single tokens stay with their tokens; for other estimators they are part of the total."""

    needs_components: ClassVar[bool] = False
    """Whether it looks at the components of the reward and their weights; shaping of the total has no effect then."""

    keeps_scale: ClassVar[bool | tuple[str, str]] = True
    """Whether rewards that are twice as large give advantages that are twice as large; a field and its value where that
    is so with this value alone."""

    @property
    def grows_with_rewards(self) -> bool:
        """What `keeps_scale` says of these parameters."""
        kept = self.keeps_scale
        return kept if isinstance(kept, bool) else getattr(self, kept[0]) == kept[1]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that every row of data must have."""
        return ()
