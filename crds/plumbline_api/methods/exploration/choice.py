"""The block of exploration: one method for each stage of a rollout."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.base import ApiModel, Choice
from plumbline_api.methods.exploration import (  # noqa: F401  (importing a module declares its members)
    budget,
    replay,
    resampling,
    rescue,
    selection,
)
from plumbline_api.methods.exploration.family import Replay, Resampling, Rescue, SampleBudget, SampleSelection


class SampleBudgetChoice(Choice, family=SampleBudget):
    """How many samples each prompt of a rollout gets: exactly one way."""


class ResamplingChoice(Choice, family=Resampling):
    """What more is sampled once the first samples are judged: exactly one way."""


class RescueChoice(Choice, family=Rescue):
    """What is done about a prompt whose samples all fail: exactly one way."""


class SampleSelectionChoice(Choice, family=SampleSelection):
    """Which judged samples are learnt from: exactly one way."""


class ReplayChoice(Choice, family=Replay):
    """Which samples of earlier rollouts are learnt from again: exactly one way."""


class Exploration(ApiModel):
    """What is done about the samples of a rollout, in the order of the fields; a stage that is not set does nothing."""

    budget: SampleBudgetChoice | None = Field(
        None, description="Before sampling: how many samples each prompt gets; default: rollout.groupSize."
    )
    resampling: ResamplingChoice | None = Field(
        None, description="Once the first samples are judged: more samples of hard prompts, or other prompts."
    )
    rescue: RescueChoice | None = Field(
        None, description="Prompts whose samples all fail: hints, reference solutions or demonstrations."
    )
    selection: SampleSelectionChoice | None = Field(
        None, description="Which samples are learnt from; the others enter neither loss nor baselines."
    )
    replay: ReplayChoice | None = Field(None, description="Samples of earlier rollouts that are learnt from again.")
