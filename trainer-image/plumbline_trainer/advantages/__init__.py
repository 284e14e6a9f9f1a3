"""Advantage estimators: pure functions from a judged rollout to advantages. Importing the package registers them."""

from plumbline_trainer.advantages import group  # noqa: F401
from plumbline_trainer.advantages.registry import ESTIMATORS, advantages

__all__ = ["ESTIMATORS", "advantages"]
