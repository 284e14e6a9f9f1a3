"""Advantage estimators: pure functions from a judged rollout to advantages. Importing the package registers them."""

from plumbline_trainer.advantages import (  # noqa: F401
    batch,
    difficulty,
    group,
    ranking,
    traces,
    trees,
    values,
)
from plumbline_trainer.advantages.registry import ESTIMATORS, VALUE_TARGETS, advantages, value_targets

__all__ = ["ESTIMATORS", "VALUE_TARGETS", "advantages", "value_targets"]
