"""Which function implements an objective of the API.

    @implements(Dpo)
    def dpo(parameters: Dpo, pairs: PairLogprobs) -> RowLosses: ...

The API's one-of models are the list of methods; a test holds that list and these registries against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plumbline_api.base import Family
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_trainer.registry import Registry

Objective = Callable[..., Any]
"""A pure function: the method's parameters and tensors of log-probabilities in, losses and metrics out."""

PREFERENCE_OBJECTIVES: Registry[Objective] = Registry(PreferenceObjective)
POLICY_OBJECTIVES: Registry[Objective] = Registry(PolicyObjective)


def implements(method: type[Family]) -> Callable[[Objective], Objective]:
    """Registers the decorated function as the implementation of the objective `method`."""
    return _registry_of(method).implements(method)


def implementation_of(parameters: Family) -> Objective:
    """The function for the objective whose parameters these are; call it with them as first argument."""
    return _registry_of(type(parameters)).of(parameters)


def _registry_of(method: type[Family]) -> Registry[Objective]:
    return PREFERENCE_OBJECTIVES if issubclass(method, PreferenceObjective) else POLICY_OBJECTIVES
