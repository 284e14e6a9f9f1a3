"""What an advantage estimator sees, what it returns, and which function implements which.

    @ESTIMATORS.implements(LeaveOneOut)
    def leave_one_out(parameters: LeaveOneOut, rollout: JudgedRollout) -> Tensor: ...

An estimator returns float64 [N], one advantage a completion, or [N, T], one a token. Completions that are not valid
get 0 and enter no baseline, so what a verifier could not judge neither moves the policy nor the yardstick of its group.
Positions after a completion's end get 0 and are never read.

Estimators that use a critic which is trained also say what its values should have been:

    @VALUE_TARGETS.implements(GeneralizedAdvantage)
    def gae_targets(parameters: GeneralizedAdvantage, lambda_: float, rollout: JudgedRollout) -> Tensor: ...
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

Targets = Callable[[Any, float, JudgedRollout], Tensor]
"""(parameters, lambda, rollout) -> what the critic's values [N, T] should have been, float64 [N, T]."""

ESTIMATORS: Registry[Estimator] = Registry(Advantage)
VALUE_TARGETS: Registry[Targets] = Registry(Advantage)


def advantages(parameters: Advantage, rollout: JudgedRollout) -> Tensor:
    """The advantages of the estimator that `parameters` belongs to, float64 [N] or [N, T].

    Raises `ValueError` where the rollout lacks what the estimator needs, such as values.
    """
    return ESTIMATORS.of(parameters)(parameters, rollout)


def value_targets(parameters: Advantage, lambda_: float, rollout: JudgedRollout) -> Tensor:
    """What a critic that serves the estimator of `parameters` should learn from `rollout`: float64 [N, T].

    0 for completions that are not valid and after the end. `lambda_` is the decay of temporal differences in the
    targets, which need not be that of the advantages: 1 gives returns that no error of the critic enters.
    """
    return VALUE_TARGETS.of(parameters)(parameters, lambda_, rollout)
