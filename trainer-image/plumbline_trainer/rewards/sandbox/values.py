"""Values between two processes that do not trust each other: data by value, everything else by handle.

Data are None, bool, int, float, complex, str, bytes, and the containers, numbers and arrays of Python's and NumPy's
own; they are rebuilt at the other side as exactly these types, so nothing of a sender's class, such as an `__eq__`,
comes along. Any other object stays where it is and crosses as a number. The wire form is JSON.

Containers that can be changed are numbered within one exchange: so the same list twice is the same list again, cycles
are no trouble, and the receiver can send back what became of those it was given.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

_SEQUENCES: dict[type, str] = {list: "list", deque: "deque", set: "set"}
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "OrderedDict", Counter: "Counter", defaultdict: "defaultdict"}
_FIXED: dict[type, str] = {tuple: "tuple", frozenset: "frozenset"}
_LARGEST_PLAIN = 2**53
_PLAIN_ARRAYS = "biufc"

Wire = Any
"""What `json` takes."""


class Exchange:
    """The encoding and decoding of one question and its answer, which share the numbers of containers.

    `export` gives the wire form of an object that stays here, `find` the object for such a form from the other side.
    """

    def __init__(self, export: Callable[[Any], Wire], find: Callable[[Wire], Any]) -> None:
        self._export, self._find = export, find
        self._containers: list[Any] = []
        self._numbers: dict[int, int] = {}

    def encode(self, value: Any) -> Wire:
        """The wire form. Raises `ValueError` and `RecursionError` for what has none."""
        kind = type(value)
        if value is None or kind in (bool, float, str):
            return value
        if kind is int:
            return value if -_LARGEST_PLAIN <= value <= _LARGEST_PLAIN else {"int": hex(value)}
        if kind in _FIXED:
            return {_FIXED[kind]: [self.encode(item) for item in value]}
        if kind in _SEQUENCES or kind in _MAPPINGS or kind is bytearray:
            if id(value) in self._numbers:
                return {"same": self._numbers[id(value)]}
            self._number(value)
            return self.content(value)
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is Decimal or kind is Fraction:
            return {kind.__name__: str(value)}
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in _PLAIN_ARRAYS:
            return self.encode(value.item())
        if numpy is not None and kind is numpy.ndarray and value.dtype.kind in _PLAIN_ARRAYS:
            return {"array": [value.dtype.str, list(value.shape), value.tobytes().hex()]}
        if isinstance(value, tuple):
            return {"tuple": [self.encode(item) for item in tuple.__iter__(value)]}
        return self._export(value)

    def content(self, value: Any) -> Wire:
        """The wire form of what is in a container that can be changed."""
        kind = type(value)
        if kind is bytearray:
            return {"bytearray": value.hex()}
        if kind in _MAPPINGS:
            return {_MAPPINGS[kind]: [[self.encode(key), self.encode(item)] for key, item in value.items()]}
        return {_SEQUENCES[kind]: [self.encode(item) for item in value]}

    def decode(self, wire: Wire) -> Any:
        """The value. Raises `ValueError` for what is none."""
        if wire is None or type(wire) in (bool, int, float, str):
            return wire
        if type(wire) is not dict or len(wire) != 1:
            raise ValueError("no value is written like this")
        [(kind, body)] = wire.items()
        if kind == "int":
            return int(body, 16)
        if kind == "bytes":
            return bytes.fromhex(body)
        if kind == "complex":
            return complex(*body)
        if kind == "Decimal":
            return Decimal(body)
        if kind == "Fraction":
            return Fraction(body)
        if kind == "tuple":
            return tuple(map(self.decode, body))
        if kind == "frozenset":
            return frozenset(map(self.decode, body))
        if kind == "array":
            return _array(*body)
        if kind == "same":
            return self._containers[body]
        empty = _EMPTY.get(kind)
        if empty is None:
            return self._find(wire)
        value = empty()
        self._number(value)
        self._fill(value, wire)
        return value

    def snapshot(self) -> list[Wire]:
        """The content of every numbered container now."""
        return [self.content(value) for value in self._containers]

    def changes(self, before: list[Wire]) -> list[Wire]:
        """The numbers and contents of containers that changed since."""
        now = [self.content(self._containers[number]) for number in range(len(before))]
        return [[number, wire] for number, wire in enumerate(now) if wire != before[number]]

    def apply(self, changes: list[Wire]) -> None:
        """Changes this side's containers as the other side changed its own."""
        for number, wire in changes:
            value = self._containers[number]
            if isinstance(value, bytearray):
                value[:] = bytes.fromhex(wire["bytearray"])
            else:
                [items] = wire.values()
                decoded = [self._items(value, item) for item in items]
                value.clear()
                self._put(value, decoded)

    def _fill(self, value: Any, wire: Wire) -> None:
        [body] = wire.values()
        if isinstance(value, bytearray):
            value[:] = bytes.fromhex(body)
        else:
            self._put(value, [self._items(value, item) for item in body])

    def _items(self, value: Any, wire: Wire) -> Any:
        return (self.decode(wire[0]), self.decode(wire[1])) if isinstance(value, dict) else self.decode(wire)

    @staticmethod
    def _put(value: Any, items: list[Any]) -> None:
        if isinstance(value, dict):
            for key, item in items:
                value[key] = item
        elif isinstance(value, set):
            value.update(items)
        else:
            value.extend(items)

    def _number(self, value: Any) -> None:
        self._numbers[id(value)] = len(self._containers)
        self._containers.append(value)


_EMPTY: dict[str, Callable[[], Any]] = {
    **{name: kind for kind, name in (_SEQUENCES | _MAPPINGS).items()},
    "bytearray": bytearray,
}


def _array(kind: str, shape: list[int], content: str) -> Any:
    import numpy

    data_type = numpy.dtype(kind)
    if data_type.kind not in _PLAIN_ARRAYS:
        raise ValueError("no array of plain numbers")
    return numpy.frombuffer(bytes.fromhex(content), data_type).reshape(shape).copy()
