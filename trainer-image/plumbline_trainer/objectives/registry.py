"""Method -> function: which function implements a method of the API.

    @implements(Dpo)
    def dpo(parameters: Dpo, pairs: PairLogprobs) -> Objective: ...

The API's one-of models are the list of methods; a test holds that list and this registry against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from plumbline_api.base import Family

Function = TypeVar("Function", bound=Callable[..., Any])

_IMPLEMENTATIONS: dict[type[Family], Callable[..., Any]] = {}


def implements(method: type[Family]) -> Callable[[Function], Function]:
    """Registers the decorated function as the implementation of `method`, a member of a family."""

    def register(function: Function) -> Function:
        if not method.member_key:
            raise TypeError(f"{method.__name__} is a family, not a method: it has no key")
        if method in _IMPLEMENTATIONS:
            raise TypeError(f"{method.__name__} is implemented by {_IMPLEMENTATIONS[method].__name__} already")
        _IMPLEMENTATIONS[method] = function
        return function

    return register


def implementation_of(parameters: Family) -> Callable[..., Any]:
    """The function for the method whose parameters these are; call it with them as first argument."""
    return _IMPLEMENTATIONS[type(parameters)]


def implemented(family: type[Family]) -> set[type[Family]]:
    """The methods of `family` that have an implementation, among the modules imported so far."""
    return {method for method in _IMPLEMENTATIONS if issubclass(method, family)}
