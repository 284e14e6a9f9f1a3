"""Objects of a program that its tests use from another process.

The tests run in one process, the program in a second, so that the program cannot reach the tests, their verdict or
Python's machinery under them. `serve` is the program's side; that of the tests is in `remote`.

What a program can still do is answer. So that its answers carry no more than a wrong or a right value:

- values are data (see `values`) and are compared in the tests' process by Python's own types;
- an object of the program's own class is trusted with values of the tests only if the tests themselves made it, by
  calling a class, or imported it by name. One that a call returned where a value was expected has attributes, items
  and methods without arguments; it cannot take part in comparisons, arithmetic or conversions, where it could agree
  to everything;
- functions that the tests pass to the program can be called by it, and nothing else of them is reachable.
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, BinaryIO

from plumbline_trainer.rewards.sandbox.values import Exchange, Wire

BINARY = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
UNARY = ("neg", "pos", "abs", "invert")
_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "bool": bool, "str": str, "repr": repr, "int": int, "float": float, "hash": hash,
}  # fmt: skip
_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(operator, f"__{name}__") for name in (*BINARY, *UNARY)},
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem", "delitem")},
    **_CONVERSIONS,
    "contains": operator.contains, "getattr": getattr, "setattr": setattr,
    "len": len, "iter": iter, "next": next, "call": lambda function, *arguments, **named: function(*arguments, **named),
    "enter": lambda manager: manager.__enter__(), "exit": lambda manager: manager.__exit__(None, None, None),
}  # fmt: skip


class Ended(Exception):
    """The other process is gone, or does not speak as agreed."""


class Channel:
    """Messages to and from the other process, one JSON value a line."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def send(self, message: Wire) -> None:
        self._outgoing.write(json.dumps(message).encode() + b"\n")
        self._outgoing.flush()

    def receive(self) -> Any:
        line = self._incoming.readline()
        if not line.endswith(b"\n"):
            raise Ended
        return json.loads(line)


def serve(channel: Channel, namespace: Mapping[str, Any]) -> None:
    """Answers questions about the program's names until the tests' process ends."""
    Server(channel).serve(namespace)


class Server:
    """Keeps the program's objects that the tests have seen."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._objects: list[Any] = []
        self._handles: dict[int, int] = {}

    def serve(self, namespace: Mapping[str, Any]) -> None:
        exchange = self._exchange()
        names = {name: value for name, value in namespace.items() if not name.startswith("_")}
        self._channel.send(
            {"names": {name: _imported(value) or exchange.encode(value) for name, value in names.items()}}
        )
        while True:
            try:
                question = self._channel.receive()
            except Ended:
                return
            self._channel.send(self._answer(question))

    def _answer(self, question: Any) -> Wire:
        exchange = self._exchange()
        try:
            arguments = [exchange.decode(wire) for wire in question["arguments"]]
            named = {name: exchange.decode(wire) for name, wire in question["named"].items()}
            before = exchange.snapshot()
            result = _OPERATIONS[question["do"]](*arguments, **named)
            return {"value": exchange.encode(result), "changes": exchange.changes(before)}
        except BaseException as error:  # what a program raises, SystemExit included, is its answer
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            with suppress(Exception):
                return {"raises": kinds, "class": self._export(type(error)), "says": str(error)[:2000]}
            return {"raises": kinds, "class": None, "says": ""}

    def _exchange(self) -> Exchange:
        return Exchange(self._export, self._find)

    def _export(self, value: Any) -> Wire:
        handle = self._handles.get(id(value))
        if handle is None:
            handle = self._handles[id(value)] = len(self._objects)
            self._objects.append(value)
        kind = "object"
        if isinstance(value, type):
            kind = "error" if issubclass(value, BaseException) else "class"
        return {kind: handle}

    def _find(self, wire: Wire) -> Any:
        [(kind, number)] = wire.items()
        if kind == "own":
            return self._objects[number]
        if kind == "function":
            return lambda *arguments, **named: self._call_back(number, arguments, named)
        raise ValueError(f"{kind} is no value")

    def _call_back(self, number: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        exchange = self._exchange()
        wires = [exchange.encode(value) for value in arguments]
        self._channel.send(
            {"call": number, "arguments": wires, "named": {k: exchange.encode(v) for k, v in named.items()}}
        )
        while "result" not in (message := self._channel.receive()):
            self._channel.send(self._answer(message))  # what the function does with the program's objects
        if message["result"] is None:
            raise RuntimeError("the function raised")
        return exchange.decode(message["result"]["value"])


def _imported(value: Any) -> Wire:
    """Where a program has a name from, if that is the standard library or NumPy: both sides have it."""
    if isinstance(value, ModuleType):
        return {"import": [value.__name__, None]} if is_shared(value.__name__) else None
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not is_shared(module):
        return None
    return {"import": [module, name]} if getattr(sys.modules.get(module), name, None) is value else None


def is_shared(module: str) -> bool:
    top = module.partition(".")[0]
    return top == "numpy" or (top in sys.stdlib_module_names and not top.startswith("_"))
