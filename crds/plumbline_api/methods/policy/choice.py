"""The one-of of all policy-gradient objectives."""

from __future__ import annotations

from plumbline_api.base import Choice
from plumbline_api.methods.policy import clipped, likelihood  # noqa: F401  (importing a module declares its members)
from plumbline_api.methods.policy.family import PolicyObjective


class PolicyObjectiveChoice(Choice, family=PolicyObjective):
    """The policy-gradient objective: exactly one method with its parameters."""
