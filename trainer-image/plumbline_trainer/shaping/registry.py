"""What a step of reward shaping sees, what it returns, and which function implements which.

    @SHAPINGS.implements(LinearLength)
    def linear_length(parameters: LinearLength, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped: ...

A step changes nothing that it is given. Rewards of completions that are not valid are ignored: `apply_shaping` sets
them to 0. Statistics of groups and of the rollout count valid completions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from plumbline_api.methods.shaping.family import Shaping
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout

State = Mapping[str, Any]
"""What a step remembers from one rollout to the next: JSON types only; empty before the first."""


@dataclass(frozen=True)
class Evidence:
    """What some steps need besides the judged rollout; the step's API class declares what."""

    token_ends: Sequence[Sequence[int]] | None = None
    """For each of the N completions what `positions.token_ends` says of its tokens (`needs_token_positions`)."""

    gradient_products: Mapping[str, Mapping[str, float]] | None = None
    """Inner products of the policy gradients of the reward's components, by their names
    (`needs_component_gradients`)."""

    prefix_values: Sequence[Sequence[float]] | None = None
    """For each of the N completions the success rates of its prefixes, from the empty one to the whole, at the cuts of
    `progress.segment_ends` (`needs_prefix_values`)."""


@dataclass(frozen=True)
class Credit:
    """A reward for one part of the text of one completion."""

    completion: int
    """Index among the N completions."""

    start: int
    end: int
    """The part: its first character and the one behind its last. The tokens that write it share the reward, and
    where it becomes an advantage each of them has it in full."""

    value: float


@dataclass(frozen=True)
class Shaped:
    """What a step makes of a rollout."""

    rewards: Tensor
    """[N] float64."""

    state: State = field(default_factory=dict)
    """What the step is given with the next rollout."""

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """Shown as `shaping/<name of the step>/<key>`. They are the same on all ranks, which a sum over ranks leaves as
    they are, since it adds up totals and counts alike."""

    credits: Sequence[Credit] = ()
    """Rewards of single tokens, besides `rewards`."""

    valid: Tensor | None = None
    """[N] bool: which completions still count; None: as before."""

    components: Mapping[str, Tensor] = field(default_factory=dict)
    """[N] float64 each: components with new values, which later steps see."""


Step = Callable[[Any, JudgedRollout, State, Evidence], Shaped]
"""(parameters, rollout of N completions, state, evidence) -> shaped rewards."""

SHAPINGS: Registry[Step] = Registry(Shaping)
