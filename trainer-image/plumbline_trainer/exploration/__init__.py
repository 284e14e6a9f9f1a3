"""What is done about the samples of a rollout. Importing the package registers all methods of all stages."""

from plumbline_trainer.exploration import budget, replay, resampling, rescue, selection  # noqa: F401
from plumbline_trainer.exploration.budget import prompt_weights
from plumbline_trainer.exploration.registry import (
    BUDGETS,
    REPLAYS,
    RESAMPLINGS,
    RESCUES,
    SELECTIONS,
    Budget,
    Replay,
    ResamplingPlan,
    RescuePlan,
)
from plumbline_trainer.exploration.resampling import plan_resampling
from plumbline_trainer.exploration.rescue import plan_rescue, without_groups
from plumbline_trainer.exploration.selection import select
from plumbline_trainer.exploration.texts import hinted, texts_of

__all__ = [
    "BUDGETS",
    "REPLAYS",
    "RESAMPLINGS",
    "RESCUES",
    "SELECTIONS",
    "Budget",
    "Replay",
    "ResamplingPlan",
    "RescuePlan",
    "hinted",
    "plan_resampling",
    "plan_rescue",
    "prompt_weights",
    "select",
    "texts_of",
    "without_groups",
]
