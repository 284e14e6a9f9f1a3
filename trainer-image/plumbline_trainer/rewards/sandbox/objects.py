"""Objects of a program that its tests use from another process.

The tests run in one process, the program in a second, so that the program cannot reach the tests, their verdict or
Python's machinery under them. `serve` is the program's side and `Connection` that of the tests, in which the program's
functions, classes and instances appear as `Remote`.

What a program can still do is answer. So that its answers carry no more than a wrong or a right value:

- values are data (see `values`) and are compared in the tests' process by Python's own types;
- an object of the program's own class is trusted with values of the tests only if the tests themselves made it, by
  calling a class, or imported it by name. One that a call returned where a value was expected has attributes, items
  and methods without arguments; it cannot take part in comparisons, arithmetic or conversions, where it could agree
  to everything;
- functions that the tests pass to the program can be called by it, and nothing else of them is reachable.
"""

from __future__ import annotations

import builtins
import json
import operator
import sys
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, BinaryIO

from plumbline_trainer.rewards.sandbox.values import Exchange, Wire

_BINARY = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
_UNARY = ("neg", "pos", "abs", "invert")
_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "bool": bool, "str": str, "repr": repr, "int": int, "float": float, "hash": hash,
}  # fmt: skip
_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(operator, f"__{name}__") for name in (*_BINARY, *_UNARY)},
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


# --- the program's side


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
        return {"import": [value.__name__, None]} if _is_shared(value.__name__) else None
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not _is_shared(module):
        return None
    return {"import": [module, name]} if getattr(sys.modules.get(module), name, None) is value else None


def _is_shared(module: str) -> bool:
    top = module.partition(".")[0]
    return top == "numpy" or (top in sys.stdlib_module_names and not top.startswith("_"))


# --- the tests' side


class Connection:
    """The tests' end: asks, and answers calls of functions that the tests have passed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._functions: list[Callable[..., Any]] = []
        self._trusted: set[int] = set()
        self._methods: set[int] = set()
        self._errors: dict[int, type[BaseException]] = {}

    def names(self, modules: Container[str]) -> dict[str, Any]:
        """The program's public names, but for those of Python's own functions and the `modules` that tests rely on.

        What the program has imported from the standard library or NumPy is imported here, not asked for there.
        """
        wires = self._channel.receive()["names"]
        exchange = self._exchange(trusting=True)
        found = {}
        for name, wire in wires.items():
            if hasattr(builtins, name):
                continue
            if isinstance(wire, dict) and "import" in wire:
                value = _import(*wire["import"])
                if value is not None:
                    found[name] = value
            elif name not in modules:
                found[name] = exchange.decode(wire)
        return found

    def trusts(self, handle: int) -> bool:
        """Whether the tests made this object or imported it by name."""
        return handle in self._trusted

    def may_take_values(self, handle: int) -> bool:
        """Whether a call of this object may have arguments: it is trusted, or a method of an object that is."""
        return handle in self._trusted or handle in self._methods

    def attribute(self, remote: Remote, name: str) -> Any:
        value = self.ask("getattr", remote, name)
        if type(value) is Remote and self.trusts(object.__getattribute__(remote, "_handle")):
            self._methods.add(object.__getattribute__(value, "_handle"))
        return value

    def ask(
        self, operation: str, *arguments: Any, named: Mapping[str, Any] | None = None, trusting: bool = False
    ) -> Any:
        """What the program's process makes of an operation; an object in the answer is trusted if `trusting`.

        Raises what the program raised, as the built-in class that it is or derives from, and `Ended`.
        """
        exchange = self._exchange(trusting)
        wires = [exchange.encode(value) for value in arguments]
        named_wires = {name: exchange.encode(value) for name, value in (named or {}).items()}
        self._channel.send({"do": operation, "arguments": wires, "named": named_wires})
        while "call" in (message := self._channel.receive()):
            self._channel.send({"result": self._called(message)})
        if "raises" in message:
            raise self._error(message)
        value = exchange.decode(message["value"])
        exchange.apply(message["changes"])
        return value

    def _exchange(self, trusting: bool) -> Exchange:
        def find(wire: Wire) -> Any:
            [(kind, handle)] = wire.items()
            if type(handle) is not int or kind not in ("object", "class", "error"):
                raise ValueError(f"{kind} is no value")
            if trusting:
                self._trusted.add(handle)
            if kind == "error" and handle in self._trusted:
                return self._error_class(handle)
            return Remote(self, handle, kind == "class")

        return Exchange(self._export, find)

    def _export(self, value: Any) -> Wire:
        if type(value) is Remote:
            return {"own": object.__getattribute__(value, "_handle")}
        if not callable(value):
            raise TypeError(f"a {type(value).__name__} cannot be passed to the program")
        self._functions.append(value)
        return {"function": len(self._functions) - 1}

    def _called(self, message: Any) -> Wire:
        exchange = self._exchange(trusting=False)
        arguments = [exchange.decode(wire) for wire in message["arguments"]]
        named = {name: exchange.decode(wire) for name, wire in message["named"].items()}
        try:
            return {"value": exchange.encode(self._functions[message["call"]](*arguments, **named))}
        except Exception:
            return None

    def _error(self, message: Any) -> BaseException:
        kinds, said = message["raises"], message["says"]
        wire = message["class"]
        handle = wire.get("error") if isinstance(wire, dict) else None
        if type(handle) is int and handle in self._errors:
            return self._errors[handle](said)
        return _built_in_error(kinds)(said)

    def _error_class(self, handle: int) -> type[BaseException]:
        """What the tests see of an exception class of the program, so that they can catch it."""
        return self._errors.setdefault(handle, type("ErrorOfTheProgram", (Exception,), {}))


def _built_in_error(kinds: list[str]) -> type[BaseException]:
    """The nearest built-in class of an error; one that would end the tests' process becomes an ordinary error."""
    for kind in kinds:
        found = getattr(builtins, str(kind), None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
    return RuntimeError


def _import(module: str, name: str | None) -> Any:
    if not _is_shared(module):
        return None
    with suppress(ImportError):
        found = __import__(module, fromlist=["*"])
        return found if name is None else getattr(found, name, None)
    return None


class Remote:
    """An object of the program, used by the tests."""

    __slots__ = ("_connection", "_handle", "_is_class")

    def __init__(self, connection: Connection, handle: int, is_class: bool) -> None:
        object.__setattr__(self, "_connection", connection)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_is_class", is_class)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        connection: Connection = object.__getattribute__(self, "_connection")
        handle = object.__getattribute__(self, "_handle")
        if (arguments or named) and not connection.may_take_values(handle):
            raise TypeError("an object that the program returned takes no values of the tests")
        makes = connection.trusts(handle) and object.__getattribute__(self, "_is_class")
        return connection.ask("call", self, *arguments, named=named, trusting=makes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _connection(self).attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _trusted(self, "setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return _connection(self).ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _trusted(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _trusted(self, "delitem", key)

    def __len__(self) -> int:
        return int(_connection(self).ask("len", self))

    def __iter__(self) -> Any:
        return _connection(self).ask("iter", self)

    def __next__(self) -> Any:
        return _connection(self).ask("next", self)

    def __contains__(self, value: Any) -> bool:
        return bool(_trusted(self, "contains", value))

    def __enter__(self) -> Any:
        return _trusted(self, "enter")

    def __exit__(self, *error: object) -> None:
        _trusted(self, "exit")

    def __eq__(self, other: object) -> bool:
        return _compare(self, "eq", other, otherwise=False)

    def __ne__(self, other: object) -> bool:
        return _compare(self, "ne", other, otherwise=True)

    def __hash__(self) -> int:
        return hash(_trusted(self, "hash"))

    def __bool__(self) -> bool:
        return bool(_trusted(self, "bool"))

    def __str__(self) -> str:
        return _text(self, "str")

    def __repr__(self) -> str:
        return _text(self, "repr")

    def __int__(self) -> int:
        return int(_trusted(self, "int"))

    def __float__(self) -> float:
        return float(_trusted(self, "float"))


def _connection(remote: Remote) -> Connection:
    connection: Connection = object.__getattribute__(remote, "_connection")
    return connection


def _trusted(remote: Remote, operation: str, *arguments: Any) -> Any:
    if not _connection(remote).trusts(object.__getattribute__(remote, "_handle")):
        raise TypeError(f"an object that the program returned takes no part in {operation}")
    return _connection(remote).ask(operation, remote, *arguments)


def _text(remote: Remote, operation: str) -> str:
    text = _trusted(remote, operation)
    if type(text) is not str:
        raise TypeError(f"{operation} gave no text")
    return text


def _compare(remote: Remote, operation: str, other: object, otherwise: bool) -> bool:
    """Equality is the program's to define among its own objects, and never with data."""
    if type(other) is not Remote:
        return otherwise
    connection = _connection(remote)
    if not any(connection.trusts(object.__getattribute__(side, "_handle")) for side in (remote, other)):
        return otherwise
    return bool(connection.ask(operation, remote, other))


def _between(name: str, turned: bool) -> Callable[[Remote, Any], Any]:
    def operate(remote: Remote, other: Any) -> Any:
        if not _connection(remote).trusts(object.__getattribute__(remote, "_handle")):
            raise TypeError(f"an object that the program returned takes no part in {name}")
        return _connection(remote).ask(name, *((other, remote) if turned else (remote, other)))

    return operate


for _name in _BINARY:
    setattr(Remote, f"__{_name}__", _between(_name, turned=False))
    setattr(Remote, f"__r{_name}__", _between(_name, turned=True))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _between(_name, turned=False))
for _name in _UNARY:
    setattr(Remote, f"__{_name}__", lambda remote, name=_name: _trusted(remote, name))
