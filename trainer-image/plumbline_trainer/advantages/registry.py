"""What an advantage estimator sees, what it returns, and which function implements which.

    @ESTIMATORS.implements(LeaveOneOut)
    def leave_one_out(parameters: LeaveOneOut, rollout: JudgedRollout) -> Tensor: ...

An estimator returns float64 [N], one advantage a completion, or [N, T], one a token. Completions that are not valid
get 0 and enter no baseline, so what a verifier could not judge neither moves the policy nor the yardstick of its group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from plumbline_api.methods.advantage.family import Advantage
from plumbline_trainer.registry import Registry
from plumbline_trainer.rollout.judged import JudgedRollout

Estimator = Callable[[Any, JudgedRollout], Tensor]
"""(parameters, rollout of N completions) -> advantages, float64 [N] or [N, T]."""

ESTIMATORS: Registry[Estimator] = Registry(Advantage)


def advantages(parameters: Advantage, rollout: JudgedRollout) -> Tensor:
    """The advantages of the estimator that `parameters` belongs to, float64 [N] or [N, T]."""
    return ESTIMATORS.of(parameters)(parameters, rollout)
