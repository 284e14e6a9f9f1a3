"""The one-of of all policy-gradient objectives."""

from __future__ import annotations

from plumbline_api.base import Choice
from plumbline_api.methods.policy import (  # noqa: F401  (importing a module declares its members)
    clipped,
    conservative_bellman,
    consistency,
    covariance,
    decoupled,
    entropy_minimization,
    group_regression,
    likelihood,
    mirror,
    off_policy_reinforce,
    own_solutions,
    regularized_gradient,
    sequence_ratio,
    soft_clip,
    value_guidance,
    verdicts,
)
from plumbline_api.methods.policy.family import PolicyObjective


class PolicyObjectiveChoice(Choice, family=PolicyObjective):
    """The policy-gradient objective: exactly one method with its parameters."""
