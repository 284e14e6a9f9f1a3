"""Method parameters -> their implementation. The API's families name the methods; code only says `implements`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from plumbline_api.base import Family

Implementation = TypeVar("Implementation")


class Registry(Generic[Implementation]):
    """The implementations of one family of methods.

    SCHEDULES: Registry[Shape] = Registry(Schedule)

    @SCHEDULES.implements(Linear)
    def linear(...): ...

    SCHEDULES.of(spec.schedule.value)
    """

    def __init__(self, family: type[Family]) -> None:
        self.family = family
        self._implementations: dict[type[Family], Implementation] = {}

    def implements(self, member: type[Family]) -> Callable[[Implementation], Implementation]:
        """Registers what it decorates as the implementation of `member`."""
        if not issubclass(member, self.family):
            raise TypeError(f"{member.__name__} is no {self.family.__name__}")
        if member in self._implementations:
            raise TypeError(f"{member.__name__} has an implementation already")

        def register(implementation: Implementation) -> Implementation:
            self._implementations[member] = implementation
            return implementation

        return register

    def of(self, parameters: Family) -> Implementation:
        """The implementation of the method whose parameters these are."""
        return self._implementations[type(parameters)]

    def find(self, parameters: Family) -> Implementation | None:
        """As `of`; None where a method needs no implementation of this kind and has none."""
        return self._implementations.get(type(parameters))

    def missing(self) -> list[str]:
        """Keys of the family's members that nothing implements; empty in a complete trainer."""
        return [member.member_key for member in self.family.members() if member not in self._implementations]
